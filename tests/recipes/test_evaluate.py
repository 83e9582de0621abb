"""Evaluation files: what is read, what is refused, and what a score says."""

import json
from pathlib import Path
from typing import Any

import pytest

from timetok.errors import DataError
from timetok.recipes.evaluate import read_questions, score
from timetok.timegrid import Span

ENTRY = {"vid": "a", "question": "When?", "answer": "<2.00> <6.50> because", "duration": 10.0, "question_id": 1}


def write(folder: Path, entries: Any) -> Path:
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "videos" / "a.mp4").touch()
    path = folder / "rtl.json"
    path.write_text(json.dumps(entries))
    return path


def test_a_file_and_its_folder_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path, [ENTRY])
    (question,) = read_questions(path)
    assert read_questions(tmp_path) == [question]
    assert question.reference.span == Span(2.0, 6.5)
    assert question.path == tmp_path / "videos" / "a.mp4"
    assert question.reference.task == "rtl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "entry 0"),
        ({"answer": "no times"}, "entry 0: expected a question, an answer with a start and an end"),
        ({"answer": "<2.00> only"}, "entry 0"),
        ({"question": " "}, "entry 0: expected a question"),
        ({"question": None}, "entry 0: question: expected text"),
        ({"duration": "long"}, "entry 0"),
        ({"duration": -1}, "entry 0: duration: expected a positive number"),
        ({"vid": "b"}, "entry 0: .* a file in videos/, got .*vid='b'"),
        ({"vid": "../videos/a"}, "entry 0: vid: expected a name"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_questions(write(tmp_path, [{**ENTRY, **change}]))


@pytest.mark.parametrize("field", ["vid", "question", "answer", "duration", "question_id"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    entry = {key: value for key, value in ENTRY.items() if key != field}
    with pytest.raises(DataError, match=f"rtl.json: entry 0: field '{field}' is missing"):
        read_questions(write(tmp_path, [entry]))


@pytest.mark.parametrize(
    ("content", "told"), [({}, "field 'vid' is missing"), ([], "expected a JSON file of questions")]
)
def test_a_file_without_questions_is_refused(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_questions(write(tmp_path, content))


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data: expected a JSON file"):
        read_questions(tmp_path / "nothing")
    broken = write(tmp_path, [])
    broken.write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        read_questions(broken)


def test_ids_and_tasks_tell_questions_apart(tmp_path: Path) -> None:
    questions = read_questions(write(tmp_path, [ENTRY, {**ENTRY, "question_id": "b", "task": "event_loc"}]))
    told = [(each.reference.question_id, each.reference.vid, each.reference.task) for each in questions]
    assert told == [("rtl/1", "a", "rtl"), ("rtl/b", "a", "event_loc")]
    with pytest.raises(DataError, match="'1' is there twice"):
        read_questions(write(tmp_path, [ENTRY, ENTRY]))


def test_the_annotated_answer_is_sorted_and_not_clipped(tmp_path: Path) -> None:
    """As LITA reads it: the first two moments, whatever the length of the video."""
    for answer, span in (("<6.5> <2> back", Span(2.0, 6.5)), ("<2.00> <12.50> <3.00>", Span(2.0, 12.5))):
        (question,) = read_questions(write(tmp_path, [{**ENTRY, "answer": answer}]))
        assert question.reference.span == span


def test_a_missing_answer_counts_as_the_protocol_says(tmp_path: Path) -> None:
    questions = read_questions(write(tmp_path, [ENTRY]))
    assert score(questions, [(2.0, 6.5)]).miou == 1.0
    lenient = score(questions, [()])
    assert lenient.miou == pytest.approx(4.5 / 10)  # the whole video, as LITA counts it
    assert lenient.parse_rate == 0
    assert score(questions, [()], protocol="lita-rtl-strict").miou == 0
