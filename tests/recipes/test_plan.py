import json

import numpy as np
import pytest

import tiny_data
from timetok.cli import main
from timetok.errors import ArgumentError, DataError
from timetok.recipes.records import LAYOUTS, SIZES, Annotations, Event, Record, plan, read_records
from timetok.timegrid import Span


def write(path, records):
    path.write_text(json.dumps(records))
    return path


def annotations(spans, duration):
    events = tuple(Event("", Span(start, end)) for start, end in spans)
    return Annotations("spans", (Record("a", "a", None, duration, events, ""),), {})


def reached(size, starts, length, duration, level):
    """Share of spans whose IoU survives rounding, in plain Python."""
    step, good = duration / (size - 1), 0
    for start in starts:
        a, b = round(start / step) * step, round((start + length) / step) * step
        good += max(0, min(b, start + length) - max(a, start)) >= level * (max(b, start + length) - min(a, start))
    return good / len(starts)


def test_the_smallest_size_that_stays_above_the_target():
    starts = np.linspace(0, 590, 1001) + 1e-7
    found = plan(annotations(zip(starts, starts + 10, strict=True), 601.0), target="0.99@0.7")
    shares = {size: reached(size, starts.tolist(), 10, 601.0, 0.7) for size in SIZES}
    assert {size: ceiling.recall[0.7] for size, ceiling in found.ceilings.items()} == pytest.approx(shares)
    short = max(size for size, share in shares.items() if share < 0.99)
    assert found.enough == SIZES[SIZES.index(short) + 1]
    assert f"T = {found.enough} reaches a recall of 0.99 at IoU 0.7" in str(found)


def test_nothing_is_enough_for_spans_without_length():
    found = plan(annotations([(5.0, 5.0)], 10.0), target="0.5@0.5")
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


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"vidqa", "llava"}))
def test_spans_of_every_layout_that_has_them(layout, tmp_path, capsys):
    path, durations = tiny_data.write(tmp_path, layout), tiny_data.write_durations(tmp_path)
    found = read_records(path, durations=durations)
    expected = [event for record in found.records for event in record.events if event.span]
    assert main(["plan", str(path), "--durations", str(durations)]) == 0
    assert f"at best, on {len(expected)} spans" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["vidqa", "charades"])
def test_spans_without_a_duration_are_no_data_for_a_plan(layout, tmp_path):
    with pytest.raises(DataError, match="annotations: 0 of 3 events have a span and a duration"):
        plan(read_records(tiny_data.write(tmp_path, layout)), target="0.5@0.5")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({}, "expected one of the layouts"),
        ([], "expected one of the layouts"),
        ([{"duration": 5, "spans": []}], "0 of 0 events"),
        ([{"spans": [[0, 1]]}], "entry 0: field 'duration' is missing"),
        ([{"duration": 5, "spans": [[0, 1]]}, {"duration": 5, "spans": [[0, 7]]}], "entry 1: .*outside the video"),
        ([{"duration": 5, "spans": [[3, 1]]}], "entry 0: .*inverted"),
        ([{"duration": 5, "spans": [3]}], "entry 0"),
        ([{"duration": 0, "spans": [[0, 0]]}], "entry 0: duration"),
        ([7], "expected one of the layouts"),
    ],
)
def test_a_bad_file_is_named_with_its_record(tmp_path, records, message, capsys):
    path = write(tmp_path / "spans.json", records)
    with pytest.raises(DataError, match=message):
        plan(read_records(path), target="0.5@0.5")
    assert main(["plan", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_wrong_spans_are_clipped_or_dropped_where_that_is_asked_for(tmp_path, capsys):
    path = write(tmp_path / "spans.json", [{"duration": 5, "spans": [[0, 7], [3, 3], [1, 4]]}])
    for bad, spans in (("clip", [Span(0, 5), Span(3, 3), Span(1, 4)]), ("drop", [Span(1, 4)])):
        (record,) = read_records(path, bad=bad).records
        assert [event.span for event in record.events] == spans
        assert main(["plan", str(path), "--bad", bad]) == 0
        assert f"on {len(spans)} spans" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0.9", "0.9@0.7@1", "a@b", "0@0.5", "0.9@1.5", "nan@0.5"])
def test_a_bad_target_is_named(text):
    with pytest.raises(ArgumentError, match="target: expected"):
        plan(annotations([(1.0, 2.0)], 9.0), target=text)
