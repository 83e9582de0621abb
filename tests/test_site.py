"""What the site needs and plain Markdown does not show: navigation, links, a reference that has every public name."""

import re
import runpy
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import timetok
from docs_blocks import DOCS

ROOT = DOCS.parent
CONF = runpy.run_path(str(DOCS / "conf.py"))
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
LINKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """A page without its blocks of code, in which brackets are no links."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """The names of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def pages_below(docname):
    """A page and all that its tables of contents name, and theirs."""
    found = CONF["tables_of_contents"](docname, text_of(DOCS / f"{docname}.md"))
    folder = docname.rpartition("/")[0]
    names = re.findall(r"^(?![`:])(\S+)$", found, flags=re.MULTILINE)
    return {docname}.union(*(pages_below(f"{folder}/{name}" if folder else name) for name in names))


def test_every_page_is_in_a_table_of_contents():
    written = [page for page in PAGES if "{toctree}" in text_of(page)]  # those know their own
    own = {other.relative_to(DOCS).with_suffix("").as_posix() for page in written for other in page.parent.glob("*.md")}
    assert pages_below("index") | own == {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES}


def test_no_page_is_twice_in_the_first_table_of_contents():
    found = CONF["tables_of_contents"]("index", text_of(DOCS / "index.md"))
    names = re.findall(r"^(?![`:])(\S+)$", found, flags=re.MULTILINE)
    assert len(names) == len(set(names)) > 15


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.is_file(), target  # the site refuses links to folders, too
        assert not anchor or anchor in anchors(other), target


def documented():
    """What the pages of the reference have, in place of which autodoc puts docstrings: modules, and single names."""
    modules, names = set(), set()
    for page in (DOCS / "reference").glob("*.md"):
        for module, option in re.findall(r"automodule:: (\S+)\n(?:   (:\S+:))?", text_of(page)):
            modules |= {module} if option != ":no-members:" else set()
        names |= {
            f"{module}.{name}" for name, module in re.findall(r"py:data:: (\S+)\n   :module: (\S+)", text_of(page))
        }
    return modules, names


def test_every_public_name_is_in_the_reference():
    modules, names = documented()
    public = CONF["public_names"]()
    assert {"timetok.pooling.SlowFastPooler", "timetok.metrics.PROTOCOLS", "timetok.recipes.tasks.dvc"} <= set(public)
    assert [name for name in public if name not in names and name.rpartition(".")[0] not in modules] == []


def test_the_face_is_in_the_reference():
    told = text_of(DOCS / "reference" / "index.md")
    for name in set(timetok.__all__) - {"__version__"}:
        is_room = isinstance(getattr(timetok, name), ModuleType)
        assert (f"[timetok.{name}]({name}.md)" if is_room else f"`timetok.{name}`") in told


def test_the_command_line_on_the_page_is_that_of_the_package():
    commands = tomllib.loads((Path(timetok.__file__).with_name("commands.toml")).read_text(encoding="utf-8"))
    rows = re.findall(r"^\| `timetok (\w+)` \| (.*?) \|", text_of(DOCS / "reference" / "cli.md"), flags=re.MULTILINE)
    assert rows == [(name, told["help"]) for name, told in commands.items()]
