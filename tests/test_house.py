"""The house keeps its own rules: what each room pulls in, how long things grow, what may not stand in the tree."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import timetok

ROOT = Path(__file__).parent.parent
PACKAGE = Path(timetok.__file__).parent  # src/timetok, or an installed wheel
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "timm", "triton", "av", "matplotlib", "accelerate", "peft", "gradio")

# room: the heavy packages it may bring along; torch brings triton, transformers' models bring accelerate
MAY_LOAD: dict[str, set[str]] = {
    "errors": set(),
    "atomic": set(),
    "timegrid": set(),
    "codecs": set(),
    "metrics": set(),
    "tokenizer": {"transformers"},
    "embeddings": {"torch", "triton", "transformers", "accelerate", "peft"},
    "decoding": {"torch", "triton", "transformers"},
    "losses": {"torch", "triton"},
    "video": {"torch", "triton", "av"},
    "vision": {"torch", "triton", "timm"},
    "pooling": {"torch", "triton"},
    "attention": {"torch", "triton"},
    "plots": {"torch", "triton", "matplotlib"},
    "adapter": {"torch", "triton", "transformers", "accelerate"},
    "lita": {"torch", "triton", "transformers", "accelerate", "timm", "av"},
    "hub": {"torch", "triton", "transformers", "accelerate", "timm", "av"},
    "recipes": {"torch", "triton", "transformers", "accelerate", "timm", "av"},
    "demo": set(),
    "cli": set(),
}
ROOMS = sorted({file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES} - {"__init__"})


def in_fresh_interpreter(code: str) -> str:
    """What `code` prints in a new Python process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_in_turn(rooms: Sequence[str]) -> dict[str, set[str]]:
    """The heavy packages that are there after the import of each room, in one fresh interpreter."""
    told = f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    code = "import json, sys\n" + "".join(f"import timetok.{room}\n{told}\n" for room in rooms)
    return dict(zip(rooms, map(set, map(json.loads, in_fresh_interpreter(code).splitlines())), strict=True))


def test_import_timetok_loads_nothing_heavy() -> None:
    assert loaded_in_turn(["errors"])["errors"] == set()  # the package comes before its first room


def test_import_timetok_is_quick() -> None:
    code = "from time import perf_counter as now; start = now(); import timetok; print(now() - start)"
    assert min(float(in_fresh_interpreter(code)) for _ in range(3)) < 0.1


def rows_of(rooms: Sequence[str]) -> list[list[str]]:
    """Rooms in rows in which each may bring along all that those before it may, so one interpreter does for all."""
    rows: list[list[str]] = []
    for room in sorted(rooms, key=lambda room: len(MAY_LOAD[room])):
        row = next((row for row in rows if MAY_LOAD[row[-1]] <= MAY_LOAD[room]), None)
        rows.append([room]) if row is None else row.append(room)
    return rows


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What is loaded once a room is, as many interpreters at a time as there are cores."""
    rows = rows_of([room for room in ROOMS if room in MAY_LOAD])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {room: found for each in pool.map(loaded_in_turn, rows) for room, found in each.items()}


@pytest.mark.parametrize("room", ROOMS)
def test_room_loads_only_what_its_floor_allows(room: str, loaded: dict[str, set[str]]) -> None:
    assert room in MAY_LOAD, f"{room} is a new room: give it a floor in pyproject.toml and a line in MAY_LOAD"
    assert loaded[room] <= MAY_LOAD[room]


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def span(node: ast.stmt) -> int:
    """Source lines a statement covers."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def undocumented(node: ast.AST, name: str) -> Iterator[str]:
    """Dotted names of the public classes and functions in `node` that have no docstring; overloads need none."""
    for child in getattr(node, "body", []):
        if not isinstance(child, Function | ast.ClassDef) or child.name.startswith("_"):
            continue
        if not ast.get_docstring(child) and "overload" not in map(ast.unparse, child.decorator_list):
            yield f"{name}.{child.name}"
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, f"{name}.{child.name}")


def test_no_file_is_longer_than_400_lines() -> None:
    lines = {str(file.relative_to(PACKAGE.parent)): file.read_text().count("\n") for file in FILES}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    assert sum(lines.values()) < 7000


def test_no_function_is_longer_than_80_lines() -> None:
    found = {}  # without their docstrings
    for file in FILES:
        for node in functions(ast.parse(file.read_text())):
            found[f"{file.name}:{node.name}"] = span(node) - (span(node.body[0]) if ast.get_docstring(node) else 0)
    assert {name: lines for name, lines in found.items() if lines > 80} == {}


def test_no_room_is_called_after_nothing() -> None:
    assert {file.stem for file in FILES}.isdisjoint({"utils", "util", "common", "helpers", "helper", "misc", "tools"})


def test_every_public_name_has_a_docstring() -> None:
    trees = {file: ast.parse(file.read_text()) for file in FILES}
    assert [str(file.relative_to(PACKAGE.parent)) for file, tree in trees.items() if not ast.get_docstring(tree)] == []
    public = {file: tree for file, tree in trees.items() if not file.stem.startswith("_") or file.stem == "__init__"}
    assert [name for file, tree in public.items() for name in undocumented(tree, file.stem)] == []


FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(tmp|root|home|work|Users|mnt)/"),
    "a package index": re.compile(r"pypi\.org/simple|pythonhosted\.org|download\.pytorch\.org|--(extra-)?index-url"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_tree_does_not_name(what: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = []
    for name in filter(None, names):
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in data:
            lines = enumerate(data.decode(errors="replace").splitlines(), start=1)
            found += [f"{name}:{number}" for number, line in lines if FORBIDDEN[what].search(line)]
    assert found == []
