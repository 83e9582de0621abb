"""The site of `make docs`: what plain Markdown pages lack, which is navigation and a reference from the docstrings."""

import pkgutil
import re
from importlib import import_module
from inspect import getdoc, ismodule
from pathlib import Path

import timetok

HERE = Path(__file__).parent

project, author, copyright = "timetok", "The timetok contributors", "The timetok contributors"
version = release = timetok.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme, html_title, html_show_sphinx, html_copy_source = "furo", f"timetok {release}", False, False
html_static_path, html_css_files = ["_static"], ["timetok.css"]
pygments_style, pygments_dark_style = "friendly", "monokai"
myst_heading_anchors = 3

default_role = "py:obj"  # what docstrings write as `name`
autodoc_default_options = {"members": True, "member-order": "bysource"}
napoleon_use_ivar = True  # attributes as a list, like arguments
autodoc_typehints_format, autodoc_preserve_defaults = "short", True
add_module_names, maximum_signature_line_length = False, 88
toc_object_entries_show_parents = "hide"
nitpick_ignore_regex = [(r"py:.*", r"(?!timetok\b).*")]  # names of other packages: their inventories are not here


def public_names() -> list[str]:
    """Of every room in ``timetok.__all__`` the names in its ``__all__``; without one, all that its modules define."""
    names = []
    for room in (f"timetok.{name}" for name in timetok.__all__ if ismodule(getattr(timetok, name))):
        module = import_module(room)
        if hasattr(module, "__all__"):
            names += [f"{room}.{name}" for name in module.__all__]
            continue
        for name in [room, *(info.name for info in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{room}."))]:
            own = [each for each, value in vars(import_module(name)).items() if _defines(name, each, value)]
            names += [f"{name}.{each}" for each in own]
    return names


def _defines(module: str, name: str, value: object) -> bool:
    return not name.startswith("_") and getattr(value, "__module__", None) == module


def tables_of_contents(docname: str, text: str) -> str:
    """For an index: the pages that its tables link, by heading, and those of its folder that they do not."""
    folder, _, name = docname.rpartition("/")
    if name != "index":
        return ""
    found = {
        section.splitlines()[0]: re.findall(r"^\| \[[^]]+\]\(([\w/-]+)\.md\)", section, flags=re.MULTILINE)
        for section in re.split(r"^#+ ", text, flags=re.MULTILINE)
        if section.strip()
    }
    linked = [page for pages in found.values() for page in pages]
    here = [path.stem for path in sorted((HERE / folder).glob("*.md"))] if folder else []
    folders = [] if folder else [f"{path.parent.name}/index" for path in sorted(HERE.glob("*/index.md"))]
    found["More"] = [page for page in here + folders if page not in (*linked, "index")]
    return "".join(
        "\n".join(["", "```{toctree}", ":hidden:", *[f":caption: {caption}"] * (not folder), "", *pages, "```", ""])
        for caption, pages in found.items()
        if pages
    )


def add_navigation(app, docname, source):
    """So that pages need no directive, which GitHub would show as it is written."""
    if "{toctree}" not in source[0]:
        source[0] += tables_of_contents(docname, source[0])


def skip_fields(app, what, name, obj, skipped, options):
    """Fields of named tuples have no words of their own; the class says what they are."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def as_written(app, what, name, obj, options, lines):
    """A colon in a property's docstring is a colon: napoleon takes what stands before it for a type."""
    if what == "property":
        lines[:] = [*getdoc(obj).splitlines(), ""]


def find_elsewhere(app, env, node, contnode):
    """`SlowFastPooler` in another room's docstring, or in a signature by the module that defines it."""
    from sphinx.util.nodes import make_refnode  # here, since the tests read this file without Sphinx

    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or ("." in target and not target.startswith("timetok.")):
        return None
    objects = env.get_domain("py").objects
    found = [name for name in objects if name.rpartition(".")[2] == target.rpartition(".")[2]]
    if len(found) != 1:
        return None
    place = objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, contnode, found[0])


def check_reference(app, env):
    """Every public name is in the reference, or the build fails."""
    from sphinx.util import logging

    for name in public_names():
        if name not in env.get_domain("py").objects:
            logging.getLogger(__name__).warning("%s is public, and no page of the reference has it", name)


def setup(app):
    """Connect the functions above."""
    app.connect("source-read", add_navigation)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", as_written, priority=900)
    app.connect("missing-reference", find_elsewhere)
    app.connect("env-check-consistency", check_reference)
