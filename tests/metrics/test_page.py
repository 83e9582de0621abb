"""The table of protocols in docs/evaluate.md is that of the package; run as a script, this file writes it."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from timetok.metrics import PROTOCOLS, Protocol

PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"
PLACE = re.compile("(?<=<!-- protocols -->\n).*?(?=<!-- end -->)", re.DOTALL)


def cell(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value) or "none"
    return (
        {True: "yes", False: "no", None: "–"}.get(value, str(value))
        if not isinstance(value, int) or isinstance(value, bool)
        else str(value)
    )


def table() -> str:
    """A row a protocol, its cells empty where they are the defaults."""
    default, names = (
        Protocol(name="defaults"),
        [field.name for field in fields(Protocol) if field.name not in ("name", "source")],
    )
    used = [name for name in names if any(getattr(each, name) != getattr(default, name) for each in PROTOCOLS.values())]
    rows = [
        ["protocol", *used],
        ["---"] * (len(used) + 1),
        ["*defaults*", *(cell(getattr(default, name)) for name in used)],
    ]
    for each in PROTOCOLS.values():
        values = [(getattr(each, name), getattr(default, name)) for name in used]
        rows.append([f"`{each.name}`", *("" if own == other else cell(own) for own, other in values)])
    sources = [f"- `{each.name}`: {each.source}" for each in PROTOCOLS.values()]
    return "\n".join(["", *(f"| {' | '.join(row)} |" for row in rows), "", *sources, "", ""])


def test_the_page_shows_the_protocols_of_the_package() -> None:
    found = PLACE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None and found[0] == table()


if __name__ == "__main__":
    PAGE.write_text(PLACE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
