"""What MkDocs is told beside mkdocs.yml: pages that lie outside docs/, and links that lead out of it.

Pages stay plain Markdown whose links work in a clone and on a code host. In the site a link to a file that it
does not have, such as source code, becomes its text.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
# Place in the site by path in the repository.
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "MODEL_ZOO.md": "model_zoo.md",
    "README.md": "overview.md",
    "benchmarks/README.md": "benchmarks.md",
    "datasets/README.md": "datasets.md",
}
_LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for path, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where the site has their targets."""
    source = Path(page.file.abs_src_path)

    def in_site(link: re.Match) -> str:
        text, target, anchor = link.groups(default="")
        path = Path(os.path.normpath(source.parent / target))
        if not path.exists():
            return link.group()  # MkDocs says so, where it is a link at all
        if (place := _place(path)) is None:
            return text
        beside = os.path.relpath(place, os.path.dirname(page.file.src_uri))
        return f"[{text}]({beside}{anchor})"

    return _LINK.sub(in_site, markdown)


def _place(path: Path) -> str | None:
    """Where the site has a file of the repository; None: nowhere."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return OUTSIDE.get(path.relative_to(REPOSITORY).as_posix())
