"""What is promised to users, name by name: tests/public_api.txt, read from the source, so that no Python rewords it.

A deliberate change is written down by ``python tests/test_public_api.py --write``.
"""

import ast
import difflib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

import pytest

LISTED = Path(__file__).with_name("public_api.txt")
INNER = {  # rooms whose files are doors too
    "lita": ["answer", "convert"],
    "recipes": ["cache", "evaluate", "records", "rewards", "search", "tasks", "train"],
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def package() -> Path:
    """The folder that `import timetok` reads: of the checkout, or of an installed wheel."""
    spec = find_spec("timetok")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@cache
def tree_of(module: str) -> ast.Module:
    path = package().joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def face() -> dict[str, str]:
    """The names at the top, each with its room, or "" for a room itself."""
    values = {}
    for node in tree_of("timetok").body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = node.value
    homes, rooms = (ast.literal_eval(values[name]) for name in ("_HOMES", "_ROOMS"))
    return homes | dict.fromkeys(rooms, "")


def doors() -> list[str]:
    rooms = [name for name, home in face().items() if not home]
    return [f"timetok.{name}" for name in rooms] + [f"timetok.{name}.{file}" for name in INNER for file in INNER[name]]


def bound(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """What the statements of a module bind, one pair a name."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("timetok"):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.Assign):
            names = [name for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            yield from ((name.id, node) for name in names)


def public(module: str) -> dict[str, list[tuple[str, ast.stmt]]]:
    """The public names of a door: `__all__` if there is one, otherwise what it defines, or imports as itself."""
    found: dict[str, list[tuple[str, ast.stmt]]] = {}
    said = None
    for name, node in bound(tree_of(module)):
        if name == "__all__" and isinstance(node, ast.Assign):
            said = ast.literal_eval(node.value)
        again = isinstance(node, ast.ImportFrom) and any(each.asname == name for each in node.names)
        if not name.startswith("_") and (again or said is None or name in said or not isinstance(node, ast.ImportFrom)):
            found.setdefault(name, []).append((module, node))
    names = said if said is not None else [n for n, nodes in found.items() if kept(nodes[0][1])]
    return {name: [home(*each, name) for each in found[name]] for name in names}


def kept(node: ast.stmt) -> bool:
    """Whether a door without `__all__` means to show this."""
    return not isinstance(node, ast.ImportFrom) or any(each.asname == each.name for each in node.names)


def home(module: str, node: ast.stmt, name: str) -> tuple[str, ast.stmt]:
    """Where an imported name is defined, and as what."""
    while isinstance(node, ast.ImportFrom):
        module = str(node.module)
        node = dict(bound(tree_of(module)))[name]
    return module, node


def described(path: str, node: ast.stmt) -> Iterator[str]:
    """The lines of one name; a class has one for each of its own public members."""
    if isinstance(node, Function):
        how = [ast.unparse(each) for each in node.decorator_list if not isinstance(each, ast.Call)]
        returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        yield f"{path}({ast.unparse(node.args)}){returned}" + "".join(f"  @{each}" for each in how)
    elif isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, [*node.bases, *node.decorator_list]))
        yield f"{path}: class({bases})"
        members = [pair for pair in bound(ast.Module(node.body, [])) if told(pair[0])]
        overloaded = {name for name, each in members if is_overload(each)}
        for name, each in members:
            if name not in overloaded or is_overload(each):
                yield from described(f"{path}.{name}", each)
        yield from (f"{path}.{name}: attribute" for name in set_by_init(node) - {name for name, _ in members})
    elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) != "TypeAlias":
        default = f" = {ast.unparse(node.value)}" if node.value and is_short(node.value) else ""
        yield f"{path}: {ast.unparse(node.annotation)}{default}"
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        alias = isinstance(node, ast.AnnAssign) or isinstance(node.value, ast.Subscript | ast.BinOp)
        yield f"{path} = {ast.unparse(node.value)}" if alias and node.value else f"{path}: constant"


def is_short(value: ast.expr) -> bool:
    """A literal or a `field`, as defaults are; tables and what other calls give are no promise."""
    text = ast.unparse(value)
    return len(text) <= 60 and (not isinstance(value, ast.Call) or text.startswith("field("))


def set_by_init(node: ast.ClassDef) -> set[str]:
    """Public attributes that an object gets from its constructor."""
    stores = (
        each
        for method in node.body
        if isinstance(method, Function) and method.name == "__init__"
        for each in ast.walk(method)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and ast.unparse(each.value) == "self"
    )
    return {each.attr for each in stores if not each.attr.startswith("_")}


def told(member: str) -> bool:
    return member in ("__init__", "__call__") or not member.startswith("_")


def is_overload(node: ast.stmt) -> bool:
    return isinstance(node, Function) and "overload" in map(ast.unparse, node.decorator_list)


def listing() -> list[str]:
    lines = [f"timetok.{name} = timetok.{room}.{name}" for name, room in face().items() if room]
    lines += [f"timetok.{name}: room" for name, room in face().items() if not room]
    for module in doors():
        for name, nodes in public(module).items():
            for place, node in nodes:
                if place != module and place in doors():
                    lines.append(f"{module}.{name} = {place}.{name}")
                else:
                    lines += described(f"{module}.{name}", node)
    return sorted(set(lines))


def test_the_public_names_are_those_of_the_list() -> None:
    now, then = listing(), LISTED.read_text(encoding="utf-8").splitlines()
    told = "\n".join(difflib.unified_diff(then, now, "promised", "found", lineterm="", n=0))
    assert now == then, f"{told}\nIf meant (docs/versioning.md), run: python tests/test_public_api.py --write"


def test_the_list_sees_what_a_user_would_miss() -> None:
    """Were the reader of the source to skip a kind of name, nothing else here would notice."""
    kinds = {
        "a function": "timetok.attention.frame_mask(frame_index: Tensor",
        "a method": "timetok.timegrid.TimeGrid.encode(self, ",
        "a class method": "timetok.tokenizer.TimeTokenizer.wrap(cls, ",
        "a field of a record": "timetok.timegrid.Span.start: float",
        "an attribute": "timetok.tokenizer.TimeTokenizer.tokenizer: attribute",
        "an error": "timetok.errors.DataError: class(TimetokError, ValueError)",
        "a name of the top": "timetok.localize = timetok.hub.localize",
        "a name of an inner file": "timetok.decoding.span_distribution(",
        "choices": "timetok.attention.FrameMask = Literal['causal', ",
    }
    lines = listing()
    assert [kind for kind, start in kinds.items() if not any(line.startswith(start) for line in lines)] == []


@pytest.mark.parametrize("module", doors())
def test_what_is_listed_can_be_imported_and_called_so(module: str) -> None:
    """The source is not the object: a decorator may swallow a signature, a condition a definition."""
    room = import_module(module)
    for name, nodes in public(module).items():
        value = attrgetter(name)(room)
        if isinstance(nodes[-1][1], ast.FunctionDef):
            given = nodes[-1][1].args
            named = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            extra = [each.arg for each in (given.vararg, given.kwarg) if each]
            assert sorted(inspect.signature(value).parameters) == sorted(named + extra), name


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        LISTED.write_text("\n".join(listing()) + "\n", encoding="utf-8")
    print("\n".join(listing()))
