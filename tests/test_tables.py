"""The measured tables of README and docs are what their benchmarks make of the committed CSV files."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import long
import posterior
import shapes
from ablations import report
from ablations.grid import QUESTIONS
from harness import ROOT, markdown, read_rows

import pooling


def experiment(letter):
    found, times = read_rows("ablate"), read_rows("ablate_speed")
    return lambda: markdown(report.header(letter), report.lines(letter, found, times))


TABLES = {
    ("README.md", "shapes table"): shapes.table,
    ("docs/pooling.md", "pooling table"): pooling.table,
    ("docs/time.md", "posterior table"): posterior.table,
    ("docs/long.md", "table of long videos"): long.tables,
    **{("docs/experiments/index.md", letter): experiment(letter) for letter in QUESTIONS},
}


@pytest.mark.parametrize(("page", "name"), TABLES, ids=" ".join)
def test_a_table_is_made_of_the_measured_rows(page, name):
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- end of {name} -->")[0]
    assert shown and shown == TABLES[page, name]()
