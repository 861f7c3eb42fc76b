"""The site is built without a warning; every page has its place, every link its target."""

import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import make_reference
import pytest
import yaml

from tests.docs.pages import PAGES, REPOSITORY, blocks

DOCS = REPOSITORY / "docs"
PACKAGES = sorted(
    ".".join(path.parent.relative_to(REPOSITORY).parts)
    for path in (REPOSITORY / "fisher_detr").rglob("__init__.py")
    if "__all__" in path.read_text()
)
API = DOCS / "reference" / "api"
ROOT_PAGES = [REPOSITORY / "CHANGELOG.md"]


def outside_blocks(page):
    text = page.read_text()
    for block in blocks(page):
        text = text.replace(block.text, "")
    return text


def anchors(page):
    """Of the headings, as code hosts and the site make them."""
    headings = re.findall(r"^#+ (.+)$", outside_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *ROOT_PAGES], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    """As plain Markdown, in a clone."""
    for target, anchor in re.findall(r"\]\(([^)\s:#]*)(?:#([^)\s]+))?\)", outside_blocks(page)):
        path = Path(os.path.normpath(page.parent / target)) if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_files_that_are_named_exist(page):
    for path in re.findall(
        r"`((?:configs|tools|benchmarks|fisher_detr|tests)/[\w./-]+\.\w+)`", page.read_text()
    ):
        assert (REPOSITORY / path).exists() or "mine" in path, path


def test_every_page_is_in_the_navigation():
    text = (REPOSITORY / "mkdocs.yml").read_text()
    named = re.findall(r"^ +- .*?([\w/]+\.md)$", text[text.index("\nnav:") :], re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) >= {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def test_every_package_has_its_page():
    rooms = [name for name in PACKAGES if name.count(".") == 1]
    assert {"fisher_detr.export", "fisher_detr.quantization"} <= set(rooms)
    for name in [*rooms, "fisher_detr.structures"]:
        page = (API / f"{name.removeprefix('fisher_detr.')}.md").read_text()
        assert f"\n::: {name}\n" in page


def test_equations_stand_where_the_page_says():
    page = (DOCS / "method.md").read_text()
    (table,) = re.findall(r"^\| equation \| .*\n\| --.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    rows = [re.split(r" \| ", row.strip("| ")) for row in table.splitlines()]
    assert len(rows) > 20
    keys = {key.path for key in make_reference.read_keys()}
    for _, places, *config in rows:
        for symbol in re.findall(r"`((?:\w+\.)+\w+)`", places):
            room, *names = symbol.split(".")
            functools.reduce(getattr, names, importlib.import_module(f"fisher_detr.{room}"))
        for name in re.findall(r"`([A-Z_.]+)`", " ".join(config)):
            assert any(f"{key}.".startswith(f"{name}.") for key in keys), name


def test_no_network_is_needed():
    config = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    assert config["theme"]["font"] is False
    assert "analytics" not in config.get("extra", {}) and not config.get("extra_javascript")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_api_pages_have_every_name(site):
    """But constants and type aliases, which have no docstrings; a function may be named like its module."""
    pages = "".join(path.read_text() for path in (site / "reference" / "api").glob("*.html"))
    shown, absent = set(re.findall(r'id="([\w.]+)"', pages)), []
    for name in PACKAGES:
        for offered in importlib.import_module(name).__all__:
            value = getattr(importlib.import_module(name), offered)
            places = {
                f"{name}.{offered}",
                f"{name.rpartition('.')[0]}.{offered}",
                f"{name}.{offered}.{offered}",
            }
            if (inspect.isroutine(value) or inspect.isclass(value)) and not places & shown:
                absent.append(f"{name}.{offered}")
    assert not absent


def test_pages_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        for source in re.findall(r"<(?:script|img|link)\b[^>]* (?:src|href)=\"?([^\" >]+)", path.read_text()):
            assert not source.startswith(("http", "//")) or "canonical" in source, f"{path.name}: {source}"


def test_pages_outside_docs_are_part_of_it(site):
    zoo, method = (site / "model_zoo.html").read_text(), (site / "method.html").read_text()
    assert "street_deformable_detr_small" in zoo and 'weights/street_detr_small.pth"' not in zoo
    assert 'href="model_zoo.html"' in method
    assert 'href="publish.html"' in zoo
