"""Readers of annotation files: what each layout holds, what is refused, what is only counted."""

import copy
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

import tiny_data
from timetok.errors import ArgumentError, DataError, TimetokError
from timetok.recipes.records import LAYOUTS, Event, read_records
from timetok.timegrid import Span
from tiny_data import CONTENTS, DURATIONS, dumped, write

BIKES = "v_bikes"
EXPECTED: dict[str, list[tuple[Any, ...]]] = {  # name, vid, duration, events as (text, start, end, answer)
    "captions": [
        (
            "v_QOlSCBRmfWY", "v_QOlSCBRmfWY", 82.73,
            [("A young woman dances.", 0.83, 19.86), ("She bows.", 17.37, 60.81), ("The crowd claps.", 56.26, 79.42)],
        ),
        (BIKES, BIKES, 61.0, [("Bikes are parked.", 0, 61)]),
    ],
    "youcook2": [
        ("9GX8f5EwwE4", "9GX8f5EwwE4", 241.64, [("cut the onion in half", 25, 37), ("peel the carrots", 37, 50)]),
        ("01lB162koHA", "01lB162koHA", 100.0, [("boil water", 5, 10)]),
    ],
    "timelens": [
        (
            "v_BrgYIg6UXhU", "v_BrgYIg6UXhU", 53.2,
            [("A man approaches a blue car.", 0, 4), ("He opens the bonnet.", 10.5, 20)],
        ),
        ("3MSZA", "3MSZA", 30.96, [("The person turns a light on.", 24.3, 30.4)]),
    ],
    "charades": [
        ("AO8RW#0", "AO8RW", None, [("a person is putting a book on a shelf.", 0, 6.9)]),
        ("AO8RW#1", "AO8RW", None, [("person closes the door.", 20, 33)]),
        ("ZZ9XY#2", "ZZ9XY", None, [("a person sits down.", 1.5, 10)]),
    ],
    "qvhighlights": [
        (
            "7920", "_6hnl_BrFvs_60.0_210.0", 150.0,
            [("Woman talks to the camera out of a car.", *window) for window in ((134, 138), (140, 150))],
        ),
        ("3158", "_6hnl_BrFvs_60.0_210.0", 150.0, [("Hill and water from a boat", 70, 110)]),
    ],
    "rtl": [
        (
            "v_abc", "v_abc", 60.5,
            [
                ("When does he warm up?", 1.5, 12.25, "<1.50> <12.25> He stretches before he runs."),
                ("Why does he smile?", None, None, "He has won."),
            ],
        ),
        ("v_def", "v_def", 20.0, [("When is it over?", 15, 20, "<15.00> <20.00> The lights go out.")]),
    ],
    "rtl-eval": [
        ("v_abc_0", "v_abc", 60.5, [("When does he warm up?", 1.5, 12.25, "<1.50> <12.25> He stretches.")]),
        ("v_abc_1", "v_abc", 60.5, [("When is it over?", 50, 60.5, "<50.00> <60.50>")]),
    ],
    "vidqa": [
        (
            "1164/3238737531#0", "1164/3238737531", None,
            [("why did the boy clap", None, None, "excited"), ("who", None, None, "a boy")],
        ),
        ("1106/2401167740#1", "1106/2401167740", None, [("where is this", None, None, "park")]),
    ],
    "llava": [
        (
            "000000033471.jpg#0", "000000033471.jpg", None,
            [
                ("What are the colours of the bus?", None, None, "White and red."),
                ("What is on its back?", None, None, "An advertisement."),
            ],
        ),
        ("000000033471.jpg#1", "000000033471.jpg", None, [("Describe it.", None, None, "A bus in a street.")]),
    ],
    "spans": [("#0", "", 60.0, [("", 1, 4), ("", 10.5, 30)]), ("#1", "", 9.0, [("", 2, 8.5)])],
}  # fmt: skip


def event(text: str, start: float | None, end: float | None, answer: str = "") -> Event:
    return Event(text, None if start is None or end is None else Span(start, end), answer)


def changed(layout: str, *path: Any, to: Any) -> Any:
    """The content of a tiny file with another value at a path of keys and positions."""
    content = copy.deepcopy(CONTENTS[layout])
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return content


# ---------------------------------------------------------------------------------------------------------- layouts


def test_every_layout_has_a_tiny_file() -> None:
    assert LAYOUTS.keys() == CONTENTS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised_and_read(layout: str, named: bool, tmp_path: Path) -> None:
    found = read_records(write(tmp_path, layout), layout=layout if named else None)
    assert found.layout == layout
    told = [(each.name, each.vid, each.duration_seconds, [*each.events]) for each in found.records]
    assert told == [(*rest, [event(*each) for each in events]) for *rest, events in EXPECTED[layout]]
    assert {each.media for each in found.records} == {None}
    assert not any(found.problems.values())


def test_what_a_file_says_of_subsets_and_tasks_is_kept(tmp_path: Path) -> None:
    assert [each.subset for each in read_records(write(tmp_path, "youcook2")).records] == ["validation", "training"]
    tasks = changed("rtl-eval", 1, "task", to="event_loc")
    assert [each.subset for each in read_records(write(tmp_path, "rtl-eval", tasks)).records] == ["", "event_loc"]


@pytest.mark.parametrize("layout", ["rtl-eval", "vidqa", "llava", "spans"])
def test_lists_may_come_as_json_lines_and_with_a_byte_order_mark(layout: str, tmp_path: Path) -> None:
    plain = read_records(write(tmp_path, layout))
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n\n".join(map(json.dumps, CONTENTS[layout])) + "\n", encoding="utf-8-sig")
    assert read_records(lines) == plain
    lines.write_text(json.dumps(CONTENTS[layout][0]))
    assert read_records(lines).records == plain.records[:1]


@pytest.mark.parametrize("as_file", [False, True])
def test_charades_takes_durations_from_elsewhere(as_file: bool, tmp_path: Path) -> None:
    durations = tiny_data.write_durations(tmp_path) if as_file else DURATIONS
    found = read_records(write(tmp_path, "charades"), durations=durations)
    assert [each.duration_seconds for each in found.records] == [33.0, 33.0, 20.5]
    assert found.census["without duration"] == 0


def test_durations_that_are_none_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "charades")
    with pytest.raises(DataError, match=r"charades.txt: line 3: duration: expected a positive number, got nan"):
        read_records(path, durations={"ZZ9XY": float("nan")})
    for text in ("id,seconds\na,3\n", "id,length\na,long\n", "id,length\na\n"):
        (tmp_path / "durations.csv").write_text(text)
        with pytest.raises(DataError, match=r"durations.csv: expected a csv file with columns id and length"):
            read_records(path, durations=tmp_path / "durations.csv")
    with pytest.raises(DataError, match=r"missing.csv"):
        read_records(path, durations=tmp_path / "missing.csv")


words = st.text("abc .,<>'\"é", min_size=1, max_size=12).map(str.strip).filter(bool)
vids = st.text("abcXYZ019_-", min_size=1, max_size=8)


@st.composite
def timed(draw: Any) -> tuple[float, list[tuple[float, float, str]]]:
    """A duration, and captions within it; hundredths, as annotators write."""
    duration = draw(st.integers(100, 30_000)) / 100
    moment = st.integers(0, int(duration * 100)).map(lambda number: number / 100)
    pairs = draw(st.lists(st.tuples(moment, moment, words), min_size=1, max_size=4))
    return duration, [(min(a, b), max(a, b), text) for a, b, text in pairs]


WRITERS: dict[str, Any] = {
    "captions": lambda d, e: {"duration": d, "timestamps": [each[:2] for each in e], "sentences": [t for *_, t in e]},
    "timelens": lambda d, e: {"duration": d, "spans": [each[:2] for each in e], "queries": [t for *_, t in e]},
    "youcook2": lambda d, e: {"duration": d, "annotations": [{"segment": [a, b], "sentence": t} for a, b, t in e]},
    "rtl": lambda d, e: {"duration": d, "QA": [{"q": t, "a": f"<{a:.2f}> <{b:.2f}>"} for a, b, t in e]},
}


@pytest.mark.parametrize("layout", WRITERS)
@given(videos=st.dictionaries(vids, timed(), min_size=1, max_size=4))
def test_what_is_written_is_read(layout: str, videos: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"{layout}.json"
    path.write_text(json.dumps({vid: WRITERS[layout](*each) for vid, each in videos.items()}), encoding="utf-8")
    found = read_records(path)
    assert found.layout == layout
    for record, (vid, (duration, events)) in zip(found.records, videos.items(), strict=True):
        assert (record.name, record.vid, record.duration_seconds) == (vid, vid, duration)
        assert [(*each.span, each.text) for each in record.events if each.span] == events
    assert found.census["events"] == sum(len(events) for _, events in videos.values())


@given(rows=st.lists(st.tuples(vids, timed()), min_size=1, max_size=4))
def test_lines_and_lists_are_read_as_written(rows: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.txt"
    queries = [(vid, duration, each) for vid, (duration, events) in rows for each in events]
    path.write_text("".join(f"{vid} {a} {b}##{text}\n" for vid, _, (a, b, text) in queries), encoding="utf-8")
    asked = [(record.vid, *record.events) for record in read_records(path).records]
    assert asked == [(vid, event(text, a, b)) for vid, _, (a, b, text) in queries]
    keys = ("qid", "vid", "duration", "query", "relevant_windows")
    entries = [dict(zip(keys, (k, v, d, t, [[a, b]]), strict=True)) for k, (v, d, (a, b, t)) in enumerate(queries)]
    path.write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    found = [(record.name, record.duration_seconds, *record.events) for record in read_records(path).records]
    assert found == [(str(k), duration, event(text, a, b)) for k, (_, duration, (a, b, text)) in enumerate(queries)]


# ---------------------------------------------------------------------------------------------------- schema errors


@pytest.mark.parametrize(
    ("layout", "path", "to", "message"),
    [
        ("captions", (BIKES, "duration"), "61", "'v_bikes': duration: expected a positive number, got '61'"),
        ("captions", (BIKES, "duration"), -1, "'v_bikes': duration: expected a positive number, got -1"),
        ("captions", (BIKES, "duration"), True, "duration: expected a positive number, got True"),
        ("captions", (BIKES, "duration"), 1e300, "duration: expected a positive number"),
        ("captions", (BIKES, "duration"), 10**400, "duration: expected a positive number"),
        ("captions", (BIKES, "duration"), float("nan"), "not readable as JSON: .*NaN"),
        ("captions", (BIKES, "timestamps"), [], "differ in length: timestamps.., sentences.."),
        ("captions", (BIKES, "timestamps"), {}, "timestamps: expected a list"),
        ("captions", (BIKES, "timestamps", 0), [1], r"timestamps\[0\]: expected \[start, end\], got \[1\]"),
        ("captions", (BIKES, "timestamps", 0), ["1", 2], r"timestamps\[0\]: expected \[start, end\]"),
        ("captions", (BIKES, "sentences", 0), None, r"sentences\[0\]: expected text, got None"),
        ("captions", (BIKES,), 7, "'v_bikes': field '{vid: …}' is missing from 7"),
        ("captions", ("../etc",), CONTENTS["spans"][0], "'../etc': {vid: …}: expected a name that stays in its folder"),
        ("youcook2", ("database", "01lB162koHA", "annotations", 0), {}, r"\[0\]: field 'segment' is missing"),
        ("vidqa", (1, "video"), "/etc/passwd", "entry 1: video: expected a name that stays in its folder"),
        ("vidqa", (1, "video"), "a/../../b", "entry 1: video: expected a name that stays in its folder"),
        ("vidqa", (1, "video"), "..\\b", "entry 1: video: expected a name that stays in its folder"),
        ("vidqa", (1, "video"), "C:\\b", "entry 1: video: expected a name that stays in its folder"),
        ("vidqa", (1, "video"), "", "entry 1: video: expected a name that stays in its folder"),
        ("vidqa", (1, "video"), None, "entry 1: video: expected a name that stays in its folder, got None"),
        ("vidqa", (1, "QA", 0, "a"), 3, r"entry 1: QA\[0\]: a: expected text, got 3"),
        ("rtl-eval", (1, "question_id"), "v_abc_0", "entry 1: the name 'v_abc_0' is there twice"),
        ("qvhighlights", (1, "qid"), 7920, "entry 1: the name '7920' is there twice"),
        ("qvhighlights", (1, "relevant_windows"), [3], r"relevant_windows\[0\]: expected \[start, end\], got 3"),
        ("llava", (1, "conversations", 0, "from"), "gpt", "entry 1: conversations: expected human and gpt in turn"),
        ("llava", (1, "conversations", 1, "from"), "system", "entry 1: conversations: expected human and gpt in turn"),
        ("llava", (1, "conversations"), [{"from": "human", "value": "Hi"}], "expected human and gpt in turn"),
    ],
)  # fmt: skip
def test_what_does_not_follow_its_layout_is_named(
    layout: str, path: Any, to: Any, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path, layout, changed(layout, *path, to=to))
    with pytest.raises(DataError, match=message) as error:
        read_records(file, layout=layout, bad="clip")
    assert str(file) in str(error.value)


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"charades"}))
def test_a_field_that_is_missing_is_named(layout: str, tmp_path: Path) -> None:
    """In the last entry, so that the first still tells the layout."""
    fields = {spec.partition("[]")[0] for spec in LAYOUTS[layout].values()} - {"{vid: …}"}
    for field in fields:
        content = copy.deepcopy(CONTENTS[layout])
        entries = content.get("database", content) if isinstance(content, dict) else content
        del [*(entries.values() if isinstance(entries, dict) else entries)][-1][field]
        with pytest.raises(DataError, match=rf"{layout}.json.*: (entry 1|'\w+'): field '{field}' is missing"):
            read_records(write(tmp_path, layout, content))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "7", "null", '"text"', "[7]", "[[]]", '{"a": 7}', '[{"vid": "a"}]', '{"a": {"duration": 3}}',
        "{", "[{]", "no layout at all", "AO8RW 1.0##no end", "AO8RW 1.0 2.0 no marks", "AO8RW nan 2.0##no number",
        '{"a": {"duration": 3, "QA": []}, "a": {"duration": 4, "QA": []}}', "[" * 100_000, '[{"a": NaN}]',
        '{"duration": 1, "spans": []}\n{"duration": 1, "spans": [}',
    ],
)  # fmt: skip
def test_what_is_no_annotation_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"some.json: "):
        read_records(path)


def test_an_unknown_layout_lists_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text('{"a": {"duration": 3, "events": []}}')
    with pytest.raises(DataError) as error:
        read_records(tmp_path / "some.json")
    told = str(error.value)
    assert all(f"{layout}: " in told for layout in LAYOUTS)
    assert "captions: {vid: …}, duration, timestamps[], sentences[]" in told


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "captions").write_bytes(json.dumps(CONTENTS["captions"]).encode("utf-16"))
    for path in (tmp_path / "captions.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(DataError, match="not readable as JSON"):
            read_records(path)


@pytest.mark.parametrize("options", [{"layout": "activitynet"}, {"bad": "ignore"}])
def test_choices_that_are_none_are_refused(options: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options.values()))):
        read_records(write(tmp_path, "captions"), **options)


# --------------------------------------------------------------------------------------------------------- problems

WRONG: dict[str, tuple[list[float], Span]] = {  # of a video of 10 s: as annotated, and clipped
    "outside the video": ([4.0, 12.5], Span(4.0, 10.0)),
    "inverted": ([7.0, 3.0], Span(3.0, 7.0)),
    "zero length": ([5.0, 5.0], Span(5.0, 5.0)),
}


def captions(*spans: list[float], texts: list[str] | None = None) -> Any:
    return {"duration": 10.0, "timestamps": spans, "sentences": texts or ["Something."] * len(spans)}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_span_is_noted_and_handled_as_the_argument_says(kind: str, tmp_path: Path) -> None:
    span, clipped = WRONG[kind]
    path = write(tmp_path, "captions", {"a": captions([1, 2]), "b": captions([2, 3], span), "c": captions(span)})
    places = [f"'b': event 1: {span} of 10.0 s", f"'c': event 0: {span} of 10.0 s"]
    kept = read_records(path, bad="clip")
    assert [[each.span for each in record.events] for record in kept.records] == [
        [Span(1, 2)], [Span(2, 3), clipped], [clipped],
    ]  # fmt: skip
    dropped = read_records(path, bad="drop")
    assert [(each.name, [event.span for event in each.events]) for each in dropped.records] == [
        ("a", [Span(1, 2)]), ("b", [Span(2, 3)]),
    ]  # fmt: skip
    for found in (kept, dropped):
        assert found.problems == {name: places if name == kind else [] for name in found.problems}
    if kind == "zero length":
        assert read_records(path).records == kept.records
    else:
        with pytest.raises(DataError, match=rf"captions.json: 'b': event 1: .* of 10.0 s: {kind}; bad='clip'"):
            read_records(path)


def test_several_things_wrong_with_one_span_are_all_noted(tmp_path: Path) -> None:
    found = read_records(write(tmp_path, "captions", {"a": captions([15.0, 12.0])}), bad="clip")
    assert found.records[0].events == (Event("Something.", Span(10.0, 10.0)),)
    assert {kind: len(where) for kind, where in found.problems.items()} == {
        "missing media": 0, "outside the video": 1, "inverted": 1, "zero length": 1, "empty text": 0,
    }  # fmt: skip


def test_without_a_duration_only_a_negative_start_lies_outside(tmp_path: Path) -> None:
    path = write(tmp_path, "charades", "a 500 9000##late.\nb -1 4##early.\n")
    found = read_records(path, bad="clip")
    assert [each.events[0].span for each in found.records] == [Span(500, 9000), Span(0, 4)]
    assert len(found.problems["outside the video"]) == 1


def test_a_span_that_touches_both_ends_is_inside(tmp_path: Path) -> None:
    assert len(read_records(write(tmp_path, "captions", {"a": captions([0, 10.0])})).records) == 1


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ("captions", ("v_QOlSCBRmfWY", "sentences", 1)),
        ("qvhighlights", (1, "query")),
        ("rtl", ("v_abc", "QA", 1, "q")),
        ("rtl", ("v_abc", "QA", 1, "a")),
        ("vidqa", (0, "QA", 0, "a")),
        ("llava", (0, "conversations", 2, "value")),
    ],
)
def test_empty_text_is_noted_and_handled(layout: str, path: Any, tmp_path: Path) -> None:
    whole = read_records(write(tmp_path, layout))
    file = write(tmp_path, layout, changed(layout, *path, to="<image>\n" if layout == "llava" else "  "))
    kept, dropped = read_records(file, bad="clip"), read_records(file, bad="drop")
    assert len(kept.problems["empty text"]) == len(dropped.problems["empty text"]) == 1
    assert kept.census["events"] == whole.census["events"] == dropped.census["events"] + 1
    with pytest.raises(DataError, match="empty text"):
        read_records(file)


def test_moments_of_an_answer_are_checked_and_its_words_kept(tmp_path: Path) -> None:
    answer = "<9.00> <2.00> He <11.00> stops."
    path = write(
        tmp_path, "rtl", {"a": {"duration": 8.0, "QA": [{"q": "When?", "a": answer}, {"q": "Who?", "a": "<3> of"}]}}
    )
    found = read_records(path, bad="clip")
    assert found.records[0].events == (Event("When?", Span(2.0, 8.0), answer), Event("Who?", None, "<3> of"))
    assert [len(found.problems[kind]) for kind in ("outside the video", "inverted")] == [1, 1]
    assert [each.text for each in read_records(path, bad="drop").records[0].events] == ["Who?"]


def test_a_window_is_dropped_without_the_others(tmp_path: Path) -> None:
    path = write(tmp_path, "qvhighlights", changed("qvhighlights", 0, "relevant_windows", 1, to=[140, 151]))
    assert [len(each.events) for each in read_records(path, bad="drop").records] == [1, 1]


# ------------------------------------------------------------------------------------------------------------ media


def test_media_is_a_file_with_or_without_its_ending_or_a_folder_of_pictures(tmp_path: Path) -> None:
    media = tmp_path / "media"
    beside = ("a.JPG", "a.jpeg", "a.gif", "a.csv", "a.m4a")  # a thumbnail is no video
    for name in ("a.mp4", *beside, "b.x.webm", "c/000001.jpg", "d.jpg", "deep/e.mkv", "f.json", "gg.mp4"):
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        (media / name).touch()
    (media / "empty").mkdir()
    names = ["a", "a.mp4", "b.x", "c", "d.jpg", "deep/e", "f", "g", "empty", "[a]", "x" * 5000, "nul\0", "\ud800"]
    path = write(tmp_path, "vidqa", [{"video": name, "QA": [{"q": "Who?", "a": "me"}]} for name in names])
    found = read_records(path, media=media, bad="clip")
    there = ["a.mp4", "a.mp4", "b.x.webm", "c", "d.jpg", "deep/e.mkv"]
    assert [each.media for each in found.records] == [*(media / name for name in there), *[None] * 7]
    assert len(found.problems["missing media"]) == 7
    assert found.problems["missing media"][0] == "entry 6: 'f'"
    assert [each.vid for each in read_records(path, media=media, bad="drop").records] == names[:6]
    with pytest.raises(DataError, match=r"vidqa.json: entry 6: 'f': missing media"):
        read_records(path, media=media)


# ----------------------------------------------------------------------------------------------------------- census


def test_the_census_counts_what_is_there(tmp_path: Path) -> None:
    spans = [[0.0, 1.0], [1.0, 3.0], [2.0, 6.0], [1.0, 9.0], [0.0, 10.0], [9.0, 25.0]]
    content = {"a": captions(*spans[:3]), "b": captions(*spans[3:])}
    found = read_records(write(tmp_path, "captions", content), bad="clip")
    census = found.census
    lengths = sorted([1.0, 2.0, 4.0, 8.0, 10.0, 1.0])  # the last one clipped to [9, 10]
    assert census.pop("span seconds") == [1.0, pytest.approx(1.25), 3.0, 7.0, lengths[-1]]
    assert census.pop("problems") == found.problems
    assert census == {
        "layout": "captions", "records": 2, "videos": 2, "events": 6, "spans": 6, "answers": 0, "hours": 0.01,
        "without duration": 0,
    }  # fmt: skip
    rows = dict(line.split(maxsplit=1) for line in str(found).splitlines() if not line.endswith(" 0"))
    assert rows["layout"] == "captions" and rows["outside"] == "the video 1  'b': event 2: [9.0, 25.0] of 10.0 s"


def test_a_video_asked_about_twice_is_counted_once(tmp_path: Path) -> None:
    census = read_records(write(tmp_path, "qvhighlights", [
        {**CONTENTS["qvhighlights"][0], "qid": k, "duration": 3600} for k in range(3)
    ])).census  # fmt: skip
    assert (census["records"], census["videos"], census["hours"]) == (3, 1, 1.0)


# -------------------------------------------------------------------------------------------------------- mutations


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every place in JSON where something stands: its container and its key."""
    keys = [*node] if isinstance(node, dict) else [*range(len(node))] if isinstance(node, list) else []
    return [(node, key) for key in keys] + [found for key in keys for found in places(node[key])]


def mutated(layout: str, rng: random.Random) -> tuple[bytes, int]:
    """A file with one thing changed, and which of its entries it was in; -1 where it may be all."""
    content = copy.deepcopy(CONTENTS[layout])
    text, kind = dumped(layout, content), rng.randrange(10)
    if kind == 0 or isinstance(content, str):
        data = text.encode()
        cut = rng.randrange(len(data))
        return rng.choice([data[:cut], data[:cut] + b"\xff" + data[cut:], text.encode("utf-16"), b""]), -1
    entries = content.get("database", content) if isinstance(content, dict) else content
    number = rng.randrange(len(entries))
    key = [*entries][number] if isinstance(entries, dict) else number
    node, step = rng.choice(places(entries[key]) if kind > 1 else [(entries, key)])
    if kind <= 3:
        del node[step]
        number = -1 if kind == 1 and isinstance(entries, list) else number  # the rest move up
    elif kind == 4 and isinstance(node, dict):
        node[f"{step}_"] = node.pop(step)
    elif kind == 5:
        other = [*entries.values()][1 - number] if isinstance(entries, dict) else entries[1 - number]
        entries[key] = copy.deepcopy(other)
    elif kind == 6 and isinstance(node, list) and len(node) == 2:
        node.reverse()
    else:
        values = [
            None,
            True,
            "",
            "text",
            "12.5",
            -3,
            0,
            1e300,
            10**400,
            float("nan"),
            float("inf"),
            [],
            {},
            [[]],
            "../a",
        ]
        node[step] = rng.choice(values)
    return dumped(layout, content).encode(), number


def test_a_mutated_file_is_a_clear_error_or_read_right(tmp_path: Path) -> None:
    """Ten layouts, 25 times: what was not touched is read as it is from the whole file."""
    refused, read = [], 0
    for seed, layout in itertools.product(range(25), LAYOUTS):
        whole = read_records(write(tmp_path, layout)).records
        path = tmp_path / f"mutated_{layout}"
        data, number = mutated(layout, random.Random(f"{layout} {seed}"))
        path.write_bytes(data)
        try:
            found = read_records(path, bad="clip")
        except TimetokError as error:
            refused.append(str(path) in str(error))
            continue
        read += 1
        untouched = [record for place, record in enumerate(whole) if number not in (-1, place)]
        assert found.layout == layout
        assert [record for record in found.records if record in untouched] == untouched
    assert all(refused)
    assert min(len(refused), read) > 50
