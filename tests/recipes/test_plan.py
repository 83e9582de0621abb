import json

import numpy as np
import pytest

from timetok.cli import main
from timetok.errors import ArgumentError, DataError
from timetok.recipes.plan import SIZES, plan, read_spans, read_target


def write(path, records):
    path.write_text(json.dumps(records))
    return path


def reached(size, starts, length, duration, level):
    """Share of spans whose IoU survives rounding, in plain Python."""
    step, good = duration / (size - 1), 0
    for start in starts:
        a, b = round(start / step) * step, round((start + length) / step) * step
        good += max(0, min(b, start + length) - max(a, start)) >= level * (max(b, start + length) - min(a, start))
    return good / len(starts)


def test_the_smallest_size_that_stays_above_the_target():
    starts = np.linspace(0, 590, 1001) + 1e-7
    found = plan(np.stack([starts, starts + 10], 1), np.full(1001, 601.0), wanted=0.99, level=0.7)
    shares = {size: reached(size, starts.tolist(), 10, 601.0, 0.7) for size in SIZES}
    assert {size: ceiling.recall[0.7] for size, ceiling in found.ceilings.items()} == pytest.approx(shares)
    short = max(size for size, share in shares.items() if share < 0.99)
    assert found.enough == SIZES[SIZES.index(short) + 1]
    assert f"T = {found.enough} reaches a recall of 0.99 at IoU 0.7" in str(found)


def test_nothing_is_enough_for_spans_without_length():
    found = plan(np.array([[5.0, 5.0]]), np.array([10.0]), wanted=0.5, level=0.5)
    assert found.enough is None
    assert "none of these reaches" in str(found)


def test_the_command_prints_a_table_and_draws_it(tmp_path, capsys):
    path = write(
        tmp_path / "spans.json", [{"duration": 60, "spans": [[1, 4], [10.5, 30]]}, {"duration": 9, "spans": []}]
    )
    assert main(["plan", str(path), "--target-recall", "0.9@0.5", "--plot", str(tmp_path / "plan.png")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["T", "mIoU", "R@0.5", "R@0.7", "R@0.9", "no", "length"]
    assert "reaches a recall of 0.9 at IoU 0.5, at best, on 2 spans" in out
    assert (tmp_path / "plan.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({}, "expected a list"),
        ([], "holds no spans"),
        ([{"spans": [[0, 1]]}], "record 0: KeyError.'duration'"),
        ([{"duration": 5, "spans": [[0, 1]]}, {"duration": 5, "spans": [[0, 7]]}], "record 1: .*between 0 and the dur"),
        ([{"duration": 5, "spans": [[3, 1]]}], "record 0: .*must not end before it starts"),
        ([{"duration": 5, "spans": [3]}], "record 0"),
        ([{"duration": 0, "spans": [[0, 0]]}], "record 0: .*duration"),
        ([7], "record 0"),
    ],
)
def test_a_bad_file_is_named_with_its_record(tmp_path, records, message, capsys):
    path = write(tmp_path / "spans.json", records)
    with pytest.raises(DataError, match=message):
        read_spans(path)
    assert main(["plan", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_files_that_are_not_json_or_not_there(tmp_path):
    (tmp_path / "a.json").write_text("{")
    for name in ("a.json", "b.json"):
        with pytest.raises(DataError, match="not readable as JSON"):
            read_spans(tmp_path / name)


@pytest.mark.parametrize("text", ["0.9", "0.9@0.7@1", "a@b", "0@0.5", "0.9@1.5", "nan@0.5"])
def test_a_bad_target_is_named(text):
    with pytest.raises(ArgumentError, match="target: expected"):
        read_target(text)
