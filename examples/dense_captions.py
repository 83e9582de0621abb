"""Dense captions that a model gave, as the established scorers read them.

timetok evaluate MODEL data/val_1.json --protocol dense-captions --max-new-tokens 512 --out runs/dvc
python examples/dense_captions.py runs/dvc captions.json        # whose references are data/val_1.json itself
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from timetok import Span
from timetok.atomic import write_json
from timetok.recipes.evaluate import read_answers

MARK = re.compile(r"<(-?[0-9]+(?:\.[0-9]+)?)>")  # as `TimeTokenizer.decode` writes moments


def parse_captions(text: str) -> list[tuple[str, Span]]:
    """Events of a dense caption, ``<0.00> <2.50> A man runs. <2.50> …``; a pair that ends before it starts is none.

    >>> parse_captions("<0.00> <2.50> A man runs. <2.50> <9.00> He falls.")
    [('A man runs.', Span(start=0.0, end=2.5)), ('He falls.', Span(start=2.5, end=9.0))]
    """
    pieces = re.split(rf"{MARK.pattern}\s*{MARK.pattern}", text)[1:]
    rows = zip(map(float, pieces[::3]), map(float, pieces[1::3]), map(str.strip, pieces[2::3]), strict=True)
    return [(caption, Span(start, end)) for start, end, caption in rows if start <= end]


def write_captions(path: str | os.PathLike[str], captions: Mapping[str, Sequence[tuple[str, Span]]]) -> None:
    """Write captions by video as the scorers of dense captioning read them, in the layout of ActivityNet's challenge.

    Their references are files in the layout of ActivityNet Captions. Source: arXiv 1705.00754 and its public scorer.
    """
    rows = {vid: [{"sentence": text, "timestamp": [*span]} for text, span in found] for vid, found in captions.items()}
    write_json(path, {"version": "VERSION 1.0", "results": rows, "external_data": {"used": False, "details": ""}})


if __name__ == "__main__":
    if len(sys.argv) == 3:
        answers = read_answers(Path(sys.argv[1]))
        write_captions(sys.argv[2], {str(vid): parse_captions(answer.text) for vid, answer in answers.items()})
        print(f"{len(answers)} videos: {sys.argv[2]}")
    else:
        print(__doc__)
