"""Pages about the installation: effective settings, versions and processes."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accession.core.effective_settings import effective_settings
from accession.core.errors import UserError
from accession.core.settings import ENV_PREFIX
from accession.tasks.about import about_installation
from accession.web.pages.rendering import render
from accession.web.principal import Administrator, Viewer

router = APIRouter(include_in_schema=False)


@router.get("/settings")
def show_settings(request: Request, _: Administrator, changed: bool = False) -> Response:
    """Show each setting of the web process, and where it comes from."""
    try:
        settings, error = effective_settings(), None
    except UserError as invalid:
        settings, error = [], str(invalid)
    shown = [each for each in settings if not changed or each.value != each.default]
    return render(request, "settings.html", settings=shown, changed=changed, error=error, prefix=ENV_PREFIX)


@router.get("/about")
def show_about(request: Request, _: Viewer) -> Response:
    """Show versions, workers, scheduler and queues."""
    return render(request, "about.html", about=about_installation())
