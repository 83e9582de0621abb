import json
import math
import random

import pytest
from hypothesis import given, strategies as st

from dense_captions import parse_captions, write_captions
from timetok.errors import DataError
from timetok.metrics import Prediction, Reference, evaluate, read_predictions
from timetok.metrics.predictions import parse_moments
from timetok.timegrid import Span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("<12.30> <45.00> Because he falls at 3.0.", [12.3, 45]),
        ("from 12.3 to 45.0 seconds", [12.3, 45]),
        ("The event happens between 5 and 10 seconds.", [5, 10]),
        ("The given query happens in 3.2 - 7.1 seconds.", [3.2, 7.1]),
        ("12.3s–45.0s", [12.3, 45]),
        ("2 men: 12 s — 45.5 s", [12, 45.5]),
        ("12.3 until 45 secs", [12.3, 45]),
        ("2 men: [3.5, 7]", [3.5, 7]),
        ("[[3.5, 7], [9, 12]]", [3.5, 7, 9, 12]),
        ('{"start": 12, "end": 45.5}', [12, 45.5]),
        ("start time: 12.5, end time: 20", [12.5, 20]),
        ("It starts at 10 seconds and ends at 20 seconds.", [10, 20]),
        ("<answer>12.54 to 17.83</answer>", [12.54, 17.83]),
        ("<3.0 seconds><7.2 seconds>", [3, 7.2]),
        ("**12.5s** - **20.3s**", [12.5, 20.3]),
        ("3.0-5.0 and 10.0-12.0", [3, 5, 10, 12]),
        ("00:05 - 01:10", [5, 70]),
        ("from 1:02:03 to 1:02:10.5.", [3723, 3730.5]),
        ("2 men: from 12 to 45.5", [12, 45.5]),
        ("The 3rd man falls at 7 seconds", [7]),
        ("frames v12 and t3", []),
        ("I cannot tell.", []),
        ("", []),
    ],
)
def test_moments_of_answers(text, seconds):
    assert parse_moments(text) == seconds


moments = st.integers(0, 99_999).map(lambda n: n / 100)


@given(moments, moments, st.sampled_from(("<{}> <{}> it", "from {} to {}", "{}s - {}s", "[{}, {}]", "{} – {} seconds")))
def test_two_moments_are_read_however_they_are_written(start, end, layout):
    assert parse_moments(layout.format(start, end)) == [start, end]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(path, content, **options):
    predictions, problems = read_predictions(write(path, content), **options)
    return {each.question_id: each for each in predictions}, problems


TWO = {"a": (3, 7.5), "7": (10, 20)}
SUBMISSION = {"query": "he runs", "vid": "clip", "pred_relevant_windows": [[3, 7.5, 0.9], [1, 2, 0.3]]}


@pytest.mark.parametrize(
    "content",
    [
        [{"question_id": "a", "answer": "<3.0> <7.5> he runs"}, {"question_id": 7, "answer": "10 to 20"}],
        [{"id": "a", "pred": "from 3.0 to 7.5"}, {"qid": 7, "timestamps": [10, 20]}],
        [{"id": "a", "timestamp": "3.0 - 7.5"}, {"id": 7, "response": [[10, 20]]}],
        [
            {"id": "a", "answer": "0 - 1", "pred": [3, 7.5]},
            {"id": 7, "timestamps": [0, 1], "prediction": "00:10 - 00:20"},
        ],
        {"a": "00:03 - 00:07.5", "7": "00:10 - 00:20"},
        {"a": [3, 7.5], "7": [[10, 20]]},
        {"a": {"spans": [[3, 7.5]]}, "7": {"text": "10 s to 20 s"}},
        '{"qid": "a", "pred_relevant_windows": [[3, 7.5]]}\n\n{"qid": 7, "windows": [[10, 20]]}\n',
        '\ufeff{"id": "a", "span": [3, 7.5]}\r\n{"id": "7", "output": "10-20"}',
    ],
)
def test_layouts(tmp_path, content):
    predictions, problems = read(tmp_path / "answers", content)
    assert {key: each.seconds for key, each in predictions.items()} == TWO
    assert not any(problems.values())


def test_a_submission_of_qvhighlights(tmp_path):
    predictions, _ = read(tmp_path / "one.jsonl", {"qid": 2579, **SUBMISSION, "pred_saliency_scores": [0.1, -0.5]})
    assert predictions == {"2579": Prediction("2579", (3, 7.5, 1, 2), (0.9, 0.3), (0.1, -0.5))}


def test_a_video_and_a_query_stand_for_an_id(tmp_path):
    other = {"video": "clip", "sentence": "he falls", "answer": "1 - 2"}
    asked = {("clip", "he runs"): ["q1", "q2"]}  # the same query twice: in turn
    again = {**SUBMISSION, "query": " he runs "}  # as ActivityNet Captions has it
    predictions, problems = read(tmp_path / "answers", [SUBMISSION, other, again, SUBMISSION], asked=asked)
    assert list(predictions) == ["q1", "q2"] and problems["without an id"] == ["entry 1", "entry 3"]
    assert asked == {("clip", "he runs"): ["q1", "q2"]}


def test_lines_that_timetok_localize_prints_name_a_video_by_its_path(tmp_path):
    line = {"video": "films/clip.mp4", "question": "he runs", "text": "<3.00> <7.50>", "times_seconds": [3.0, 7.5]}
    predictions, problems = read(tmp_path / "answers", [line], asked={("clip", "he runs"): ["q1"]})
    assert predictions == {"q1": Prediction("q1", (3.0, 7.5))} and not any(problems.values())


def test_a_video_is_named_by_a_path_with_or_without_its_ending(tmp_path):
    lines = [{"video": "films/a.mp4", "query": "he runs", "pred": [1, 2]}]
    for vid in ("films/a.mp4", "a.mp4", "a"):
        predictions, _ = read(tmp_path / "answers", lines, asked={(vid, "he runs"): ["q"]})
        assert predictions == {"q": Prediction("q", (1.0, 2.0))}


def test_numbers_stand_beside_letters_of_any_script():
    assert parse_moments("从12秒到45秒") == [12.0, 45.0] and parse_moments("von 12 s bis 45 s") == [12.0, 45.0]


def test_a_torn_last_line_of_an_evaluation_is_passed_over(tmp_path):
    whole = json.dumps({"question_id": 1, "times_seconds": [1.0, 2.0], "text": "<1.00> <2.00>"}) + "\n"
    (tmp_path / "answers-0-of-2.jsonl").write_text(whole + '{"question_id": 2, "tim')
    (tmp_path / "answers-1-of-2.jsonl").write_text(whole.replace("1, ", "3, ", 1))
    predictions, problems = read_predictions(tmp_path)
    assert [each.question_id for each in predictions] == ["1", "3"] and not any(problems.values())


WRONG = {
    "nan": [math.nan, 3],
    "infinite": [3, math.inf],
    "huge": [3, 10**400],
    "words": ["early", "late"],
    "null": [None, 3],
    "row of one": [[3]],
    "row of four": [3, 4, 5, 6],
    "deep": [[[3, 4]]],
    "mixed": [[3, 4], 5],
    "half scored": [[3, 4, 0.5], [5, 6]],
    "object": {"start": 3, "end": 4},
    "objects": [{"start": 3, "end": 4}],
    "empty object": {},
    "number": 3,
    "false score": [[3, 4, "high"]],
}


def test_what_is_no_window_is_listed_and_stands_for_no_answer(tmp_path):
    good = {"id": "good", "pred": [3, 4]}
    content = [good, *({"id": key, "pred": value} for key, value in WRONG.items()), {"pred": [1, 2]}, 5, None]
    predictions, problems = read(tmp_path / "answers", content)
    assert problems == {"unreadable": list(WRONG), "without an id": ["entry 16", "entry 17", "entry 18"]}
    assert predictions == {"good": Prediction("good", (3, 4)), **{key: Prediction(key, ()) for key in WRONG}}


def test_an_empty_list_is_an_answer_without_a_span(tmp_path):
    predictions, problems = read(tmp_path / "answers", {"a": [], "b": "", "c": {"pred": None}})
    assert {each.seconds for each in predictions.values()} == {()} and not any(problems.values())


@pytest.mark.parametrize("content", ["{", "[1, 2", '{"id": 1}\n{"id": ', "[" * 100_000, "1" * 5000])
def test_what_is_no_json_is_named(tmp_path, content):
    with pytest.raises(DataError, match="answers: not readable as JSON or JSON lines"):
        read(tmp_path / "answers", content)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00[")
    for name in ("bytes", "missing"):
        with pytest.raises(DataError, match="not readable as JSON"):
            read_predictions(tmp_path / name)


SOURCES = [
    json.dumps([{"qid": 1, **SUBMISSION}, {"qid": 2, **SUBMISSION, "pred_saliency_scores": [0.5, 1]}]),
    json.dumps({"a": "3.0 to 7.5", "b": [[3, 4, 0.5]], "c": {"timestamps": [3, 4]}}),
    "\n".join(json.dumps({"id": k, "answer": f"<{k}.0> <{k}.5>"}) for k in range(4)),
]


@pytest.mark.parametrize("source", SOURCES)
def test_broken_files_are_read_or_named(tmp_path, source):
    draw, named = random.Random(0), 0
    values = ["null", "true", "NaN", "-Infinity", '"x"', "[]", "{}", "1e999", "9" * 400, "[[[1]]]", '"\\ud800"', "-1"]
    for _ in range(120):
        start = draw.randrange(len(source))
        end = start + draw.choice((0, 1, 1, 2, 9))
        broken = source[:start] + draw.choice([*values, "", "", "[", "}", ",", '"']) + source[end:]
        if draw.random() < 0.5:  # a mutation that remains JSON
            number = draw.choice(["3", "0.5", '"<1.0> <1.5>"', '"3.0 to 7.5"', "7.5", "1"])
            broken = source.replace(number, draw.choice(values))
        try:
            predictions, problems = read_predictions(write(tmp_path / "answers", broken))
        except DataError:
            named += 1
            continue
        assert all(math.isfinite(moment) for each in predictions for moment in each.seconds)
        assert {*problems["unreadable"]} <= {each.question_id for each in predictions if not each.seconds}
    assert 0 < named < 120


def test_malformed_answers_count_as_the_protocol_says(tmp_path):
    content = [{"id": "a", "pred": [0, 4]}, {"id": "nan", "pred": [math.nan, 1]}, {"id": "x", "pred": [0, 1]}]
    predictions, problems = read_predictions(
        write(tmp_path / "answers", [*content, *[{"id": "twice", "pred": [0, end]} for end in (4, 5)]])
    )
    references = [Reference(key, key, Span(0, 4), 8.0) for key in ("a", "nan", "twice", "missing")]
    with pytest.raises(DataError, match="'missing' has 0 and 1, 'twice' has 2 and 1, 'x' has 1 and 0"):
        evaluate(predictions, references)
    for protocol, wanted in (("lita-rtl", (1 + 3 * 0.5) / 4), ("timechat", 1 / 4), ("time-r1", 1.0)):
        report = evaluate(predictions, references, protocol, malformed="count")
        assert report.problems == {"missing": ["missing"], "there twice": ["twice"], "of no reference": ["x"]}
        assert (report.miou, report.values["parsed"]) == (wanted, 0.25)
    assert problems["unreadable"] == ["nan"]


texts = st.text("abc <>.é\n0", max_size=12).map(str.strip).filter(lambda text: "<0" not in text)
events = st.tuples(texts, st.tuples(moments, moments).map(sorted).map(lambda pair: Span(*pair)))


@given(st.lists(events, max_size=4))
def test_captions_round_trip(tmp_path_factory, captions):
    text = "Here: " + "".join(f"<{span.start:.2f}> <{span.end:.2f}> {caption} " for caption, span in captions)
    assert parse_captions(text) == captions
    path = tmp_path_factory.mktemp("captions") / "submission.json"
    write_captions(path, {"v_1": captions, "v_2": []})
    read_back = json.loads(path.read_text(encoding="utf-8"))
    assert read_back["version"] == "VERSION 1.0" and read_back["results"].pop("v_2") == []
    rows = [(each["sentence"], Span(*each["timestamp"])) for each in read_back["results"]["v_1"]]
    assert rows == captions and set(read_back) == {"version", "results", "external_data"}


def test_captions_by_hand():
    assert parse_captions("<2.0> <1.0> never <1.0> <2.0> once, until <1.50> it ends") == [
        ("once, until <1.50> it ends", Span(1, 2))
    ]
    assert parse_captions("no event, <1.0> alone") == []


def test_an_answer_under_an_unknown_name_is_listed_and_one_that_is_null_is_not(tmp_path):
    rows = [{"id": "a", "answr": "1 - 2"}, {"id": "b", "pred": None}, {"id": "c", "pred_saliency_scores": [0.5]}]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    predictions, problems = read_predictions(path)
    assert problems["unreadable"] == ["a"]
    assert [each.seconds for each in predictions] == [()] * 3 and predictions[2].saliency == (0.5,)
