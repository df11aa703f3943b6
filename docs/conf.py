"""Sphinx configuration of the documentation site; `make docs-site` builds it.

The source folder is the repository, so that links between README.md, CONTRIBUTING.md and docs/ are the same
on the site as in the repository. The theme has no fonts, scripts or icons of other hosts.
"""

import re
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "Accession"
author = "The Accession contributors"
version = release = installed_version("accession-library")
language = "en_GB"

extensions = ["myst_parser"]
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [".*", "build", "src", "tests"]
root_doc = "docs/index"

# Headings down to the third level are link targets, as where the repository is shown.
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Accession"
html_show_copyright = False
html_copy_source = False
templates_path = ["site"]
# The root of the site leads to the index, which is in docs/.
html_additional_pages = {"index": "redirect.html"}

INDEXES = {root_doc, "docs/decisions/README"}
SECTION = re.compile(r"^## (.+)\n((?:(?!## ).*\n)*)", re.MULTILINE)
LINK = re.compile(r"^- \[(.+?)\]\((\S+\.md)\)", re.MULTILINE)


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Append tables of contents to an index: one for each heading, with an entry for each link below it.

    Sphinx needs them; the repository would show them as code, below a list that says the same.
    """
    if name not in INDEXES:
        return
    for heading, section in SECTION.findall(source[0]):
        lines = ["", "```{toctree}", ":hidden:", f":caption: {heading}", ""]
        lines += [f"{title} <{page}>" for title, page in LINK.findall(section)]
        source[0] += "\n".join([*lines, "```", ""])


def setup(app: Sphinx) -> None:
    """Register the hook with Sphinx."""
    app.connect("source-read", add_navigation)
