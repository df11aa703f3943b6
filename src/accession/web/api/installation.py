"""API endpoints `/settings` and `/about`: effective settings, versions and processes."""

from fastapi import APIRouter

from accession.core.effective_settings import EffectiveSetting, effective_settings
from accession.tasks.about import AboutView, about_installation
from accession.web.api.openapi import problem_responses
from accession.web.principal import Administrator, Viewer

router = APIRouter(tags=["administration"])


@router.get("/settings", responses=problem_responses(409))
def list_settings(_: Administrator) -> list[EffectiveSetting]:
    """List the settings of the web process, and where each comes from.

    Of secrets it tells only whether they are set.
    """
    return effective_settings()


@router.get("/about")
def show_installation(_: Viewer) -> AboutView:
    """Return versions, workers, scheduler and queues of the installation."""
    return about_installation()
