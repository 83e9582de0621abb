"""The Python blocks of the pages in docs/, and the codec that one of them shows."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page):
    """The code of every Python block, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def _own_codec():
    names = {}
    exec(next(block for block in blocks(DOCS / "time.md") if "class Digits" in block), names)
    return names["Digits"]


Digits = _own_codec()
