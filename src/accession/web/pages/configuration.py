"""Pages of the configuration: export it, upload files, check their plan, and apply it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response

from accession.configuration.applying import apply_configuration
from accession.configuration.documents import InvalidConfiguration, parse_document
from accession.configuration.export import export_configuration, to_yaml
from accession.configuration.loading import Configuration, load_configuration
from accession.configuration.planning import make_plan
from accession.configuration.references import remote_reader
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.db.engine import snapshot
from accession.web.errors import MAX_BODY_BYTES
from accession.web.pages.rendering import redirect, render
from accession.web.principal import Administrator

router = APIRouter(prefix="/configuration", include_in_schema=False)

_HOME = "/configuration"

Name = Annotated[str, Form(max_length=1000)]
Content = Annotated[str, Form(max_length=MAX_BODY_BYTES)]


@dataclass(frozen=True)
class UploadedFile:
    """An uploaded file; the page of its plan returns it, to be applied."""

    name: str
    content: str

    def load(self) -> Configuration:
        """Parse and check the file."""
        return load_configuration([parse_document(self.name, self.content.encode())])


@router.get("")
def show_configuration(request: Request, _: Administrator) -> Response:
    """Show the form that uploads a file, and how to export one."""
    return _page(request)


def _page(request: Request, *, problems: tuple[str, ...] = (), error: str | None = None) -> Response:
    return render(
        request,
        "configuration.html",
        status=422 if problems or error else 200,
        problems=problems,
        error=error,
        secrets_dir=get_settings().configuration_secrets_dir,
    )


@router.get("/export")
def export(_: Administrator) -> Response:
    """Download the configuration."""
    with snapshot() as session:
        text = to_yaml(export_configuration(session))
    headers = {"Content-Disposition": f'attachment; filename="accession-{utc_now():%Y-%m-%d}.yaml"'}
    return Response(text, media_type="application/yaml", headers=headers)


@router.post("/plan")
def show_plan(
    request: Request,
    _: Administrator,
    file: Annotated[UploadFile, File()],
    prune: Annotated[bool, Form()] = False,
) -> Response:
    """Show what an uploaded file would change, or its mistakes."""
    name = file.filename or ""
    try:
        content = file.file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        return _page(request, error=f"{name} is not text in UTF-8: save it as such.")
    if not content:
        return _page(request, error="The file is empty: choose a file in YAML or TOML.")
    return _plan_page(request, UploadedFile(name, content), prune=prune)


def _plan_page(request: Request, file: UploadedFile, *, prune: bool, error: str | None = None) -> Response:
    try:
        with snapshot() as session:
            plan = make_plan(session, file.load(), remote_reader(), prune=prune)
    except InvalidConfiguration as invalid:
        problems = tuple(map(str, invalid.problems))
        return _page(request, problems=problems, error=f"{invalid.summary}.")
    except UserError as failure:
        return _page(request, error=str(failure))
    status = 409 if error else 200
    context = {"plan": plan, "file": file, "prune": prune, "error": error}
    return render(request, "configuration_plan.html", status=status, **context)


@router.post("/apply")
def apply(
    request: Request,
    administrator: Administrator,
    content: Content,
    digest: Name,
    name: Name = "",
    prune: Annotated[bool, Form()] = False,
) -> Response:
    """Apply the file whose plan was shown, or show its new plan if that differs."""
    file = UploadedFile(name, content)
    try:
        plan = apply_configuration(
            administrator.actor, file.load(), remote_reader(), prune=prune, digest=digest
        )
    except UserError as error:
        return _plan_page(request, file, prune=prune, error=str(error))
    number = len(plan.changes)
    return redirect(_HOME, f"{number:,} change{'' if number == 1 else 's'} made.")
