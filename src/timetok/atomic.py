"""Files that appear under their name only when they are complete, so that nobody ever reads half of one."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timetok.errors import DataError, raised_as


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path: it replaces ``path``, a file or an empty folder, if the block ends well; else it is removed."""
    path = Path(os.path.abspath(path))  # "." has no name
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # no folder, if it is a file
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(plain(content), indent=1) + "\n", encoding="utf-8")


def plain(content: Any) -> Any:
    """The content as JSON has it: lists, and null for NaN."""
    return json.loads(json.dumps(content), parse_constant=lambda _: None)


def read_json(path: str | os.PathLike[str], kind: type, expected: str) -> Any:
    """Read a JSON file of a list or an object, which should hold what is ``expected`` in words; else a DataError."""
    with raised_as(DataError, f"{path}: not readable as JSON; expected {expected}", OSError, ValueError):
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=int)  # refuses NaN, no JSON
    if not isinstance(content, kind):
        raise DataError(f"{path}: expected {expected}, got {type(content).__name__}")
    return content
