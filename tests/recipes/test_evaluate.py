"""Evaluation files: what is read, what is refused, and what a score says."""

import json
import shlex
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import tiny_data
from dense_captions import parse_captions, write_captions
from timetok.cli import main
from timetok.errors import ArgumentError, DataError
from timetok.lita.answer import Localizer
from timetok.recipes.evaluate import ask_all, evaluate_model, read_answers, read_questions, run, score, score_file
from timetok.recipes.tasks import WORDINGS
from timetok.timegrid import Span
from tiny_lita import build, save, saying, write_clip

ENTRY = {"vid": "a", "question": "When?", "answer": "<2.00> <6.50> because", "duration": 10.0, "question_id": 1}


def write(folder: Path, entries: Any) -> Path:
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "videos" / "a.mp4").touch()
    path = folder / "rtl.json"
    path.write_text(json.dumps(entries))
    return path


def test_a_file_and_its_folder_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path, [ENTRY])
    (question,), (same,) = read_questions(path), read_questions(tmp_path)
    assert (question.reference.question_id, same.reference.question_id) == ("1", "rtl/1")
    assert replace(same.reference, question_id="1") == question.reference
    assert question.reference.spans == (Span(2.0, 6.5),)
    assert question.text == question.query == "When?"  # as it is written
    assert question.path == tmp_path / "videos" / "a.mp4"
    assert question.reference.task == "rtl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "entry 0"),
        ({"answer": "no times"}, "rtl.json: 1: lacks a"),
        ({"answer": "<2.00> only"}, "rtl.json: 1: lacks a"),
        ({"question": " "}, "rtl.json: 1: lacks a question"),
        ({"question": None}, "entry 0: question: expected text"),
        ({"duration": "long"}, "entry 0"),
        ({"duration": -1}, "entry 0: duration: expected a positive number"),
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
    ("content", "told"), [({}, "expected one of the layouts"), ([], "expected one of the layouts")]
)
def test_a_file_without_questions_is_refused(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_questions(write(tmp_path, content))


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data: expected a file of annotations"):
        read_questions(tmp_path / "nothing")
    broken = write(tmp_path, [])
    broken.write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        read_questions(broken)


def test_ids_and_tasks_tell_questions_apart(tmp_path: Path) -> None:
    questions = read_questions(write(tmp_path, [ENTRY, {**ENTRY, "question_id": "b", "task": "event_loc"}]))
    told = [(each.reference.question_id, each.reference.vid, each.reference.task) for each in questions]
    assert told == [("1", "a", "rtl"), ("b", "a", "event_loc")]
    with pytest.raises(DataError, match="'1' is there twice"):
        read_questions(write(tmp_path, [ENTRY, ENTRY]))


def test_the_annotated_answer_is_sorted_and_not_clipped(tmp_path: Path) -> None:
    """As LITA reads it: the first two moments, whatever the length of the video."""
    for answer, span in (("<6.5> <2> back", Span(2.0, 6.5)), ("<2.00> <12.50> <3.00>", Span(2.0, 12.5))):
        (question,) = read_questions(write(tmp_path, [{**ENTRY, "answer": answer}]))
        assert question.reference.spans == (span,)


@pytest.mark.parametrize(
    ("layout", "protocol", "told"),
    [
        ("captions", "activitynet-captions", ("v_QOlSCBRmfWY#0", "a young woman dances", [(0.83, 19.86)], 4)),
        ("youcook2", "charades-sta", ("9GX8f5EwwE4#0", "cut the onion in half", [(25, 37)], None)),
        ("timelens", "timelens", ("v_BrgYIg6UXhU#0", "a man approaches a blue car", [(0, 4)], 3)),
        ("charades", "charades-sta", ("AO8RW#0", "a person is putting a book on a shelf", [(0, 6.9)], 3)),
        (
            "qvhighlights",
            "qvhighlights",
            ("7920", "woman talks to the camera out of a car", [(134, 138), (140, 150)], None),
        ),
        ("captions", "dense-captions", ("v_QOlSCBRmfWY", "", [(0.83, 19.86), (17.37, 60.81), (56.26, 79.42)], 2)),
    ],
)
def test_every_layout_gives_questions(tmp_path: Path, layout: str, protocol: str, told: Any) -> None:
    name, query, spans, count = told
    durations = tiny_data.write_durations(tmp_path)
    questions = read_questions(tiny_data.write(tmp_path, layout), protocol, durations=durations)
    first = questions[0]
    assert (first.reference.question_id, first.path) == (name, None)
    assert [tuple(span) for span in first.reference.spans] == spans
    asked = f"{WORDINGS['when'][0].format(event=query)} {WORDINGS['only_times'][0]}"
    dense = f"{WORDINGS['describe'][0]} {WORDINGS['times_first'][0]}"
    assert first.text == (asked if query else dense)
    assert len({each.reference.question_id for each in questions}) == len(questions) == (count or len(questions))


def test_windows_are_as_annotated_and_in_order(tmp_path: Path) -> None:
    """15 % of Charades-STA's test spans end after their video: they are not moved into it."""
    (tmp_path / "charades.txt").write_text("AO8RW 40.0 20.0##person leaves.\n")
    (question,) = read_questions(tmp_path / "charades.txt", "charades-sta", durations={"AO8RW": 30.0})
    assert question.reference.spans == (Span(20.0, 40.0),)
    with pytest.raises(DataError, match="AO8RW#0: lacks a duration"):
        read_questions(tmp_path / "charades.txt", "charades-sta")


def test_saliency_stands_at_its_clips(tmp_path: Path) -> None:
    first = read_questions(tiny_data.write(tmp_path, "qvhighlights"), "qvhighlights")[0].reference
    assert len(first.saliency) == 75 and first.saliency[67] == (3, 4, 2) and first.saliency[70] == (2, 2, 1)
    assert sum(map(sum, first.saliency)) == 3 + 4 + 2 + 2 + 4 + 2 + 2 + 2 + 1


def test_the_wording_of_a_query_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "spans.json").write_text(
        json.dumps({"a": {"duration": 9, "spans": [[1, 2]], "queries": ["It rains."]}})
    )
    (question,) = read_questions(tmp_path / "spans.json", wording="Find: {event}!")
    assert (question.text, question.query) == ("Find: it rains!", "It rains.")


NUM_VIDEOS = 5


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    return Localizer(*build())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions about each of five videos, in no order."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos").mkdir()
    for vid in range(NUM_VIDEOS):
        write_clip(folder / "videos" / f"{vid}.mp4", num_frames=10 + 2 * vid)
    rows = [
        {"vid": str(k % NUM_VIDEOS), "question": f"When is it {'very ' * (k % 3)}bright?", "answer": "<0.20> <0.70>"}
        for k in range(3 * NUM_VIDEOS)
    ]
    times = [{"duration": 1.0 + 0.2 * (k % NUM_VIDEOS), "question_id": k} for k in range(len(rows))]
    (folder / "asked.json").write_text(json.dumps([{**row, **time} for row, time in zip(rows, times, strict=True)]))
    return folder / "asked.json"


def test_each_video_is_read_and_encoded_once(data: Path, localizer: Localizer, monkeypatch: pytest.MonkeyPatch) -> None:
    questions, seen = read_questions(data), Counter[str]()
    read, encode = localizer.read, localizer.encode
    monkeypatch.setattr(localizer, "read", lambda path: seen.update(["read"]) or read(path))
    monkeypatch.setattr(localizer, "encode", lambda frames: seen.update(["encoded"]) or encode(frames))
    answers = list(ask_all(localizer, questions, batch_size=2, max_new_tokens=4))
    assert seen == {"read": NUM_VIDEOS, "encoded": NUM_VIDEOS}
    for question, answer in zip(questions[:4], answers, strict=False):
        alone = localizer.ask(
            [localizer.encode(localizer.read(question.path))],
            [question.text],
            [answer.duration_seconds],
            max_new_tokens=4,
        )
        assert alone[0].text == answer.text


def test_a_video_that_is_not_there_is_named(data: Path, tmp_path: Path, localizer: Localizer) -> None:
    questions = read_questions(data, media=tmp_path)
    with pytest.raises(DataError, match=r"media: expected a file for each video, there is none for .*'0', '1'"):
        list(ask_all(localizer, questions))


class Killed(BaseException):
    """As if the power went."""


def test_a_run_goes_on_where_it_was_killed(data: Path, localizer: Localizer, tmp_path: Path, monkeypatch: Any) -> None:
    questions = read_questions(data)
    how: Any = {"protocol": "lita-rtl", "settings": {"seed": 3}, "batch_size": 2, "max_new_tokens": 4}
    whole = run(localizer, questions, tmp_path / "whole", **how)
    ask, calls = localizer.ask, Counter[str]()

    def dying(*arguments: Any, **options: Any) -> Any:
        calls["ask"] += 1
        if calls["ask"] in (3, 5):
            raise Killed
        return ask(*arguments, **options)

    monkeypatch.setattr(localizer, "ask", dying)
    out = tmp_path / "killed"
    for _ in range(2):
        with pytest.raises(Killed):
            run(localizer, questions, out, **how)
        with (out / "answers-0-of-1.jsonl").open("ab") as file:
            file.write(b'{"question_id": "9", "te')  # the power went while it wrote
        assert not (out / "report.json").exists()
    again = run(localizer, questions, out, **how)
    assert calls["ask"] < 2 * 8 + 2  # what was answered is not asked again
    assert again == whole == evaluate_model(localizer, questions, max_new_tokens=4)
    assert read_answers(out) == read_answers(tmp_path / "whole")
    for name in ("report.json", "report.md", "samples.csv", "manifest.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(DataError, match="holds files of other settings"):
        run(localizer, questions, out, **how | {"settings": {"seed": 4}})


def test_parts_answered_by_several_processes_make_one_report(data: Path, localizer: Localizer, tmp_path: Path) -> None:
    questions = read_questions(data)
    how: Any = {"protocol": "lita-rtl-strict", "settings": {"seed": 0}, "max_new_tokens": 4}
    whole = run(localizer, questions, tmp_path / "whole", **how)
    parts = [run(localizer, questions, tmp_path / "parts", part=(k, 3), **how) for k in range(3)]
    assert parts == [None, None, whole]
    files = sorted(path.name for path in (tmp_path / "parts").glob("answers*"))
    assert files == ["answers-0-of-3.jsonl", "answers-1-of-3.jsonl", "answers-2-of-3.jsonl"]
    videos = [{question.path for question in questions[k::3]} for k in range(3)]
    assert len(videos[0]) > 1
    report, same = ((tmp_path / name / "report.json").read_bytes() for name in ("whole", "parts"))
    assert report == same


def test_constrained_answers_hold_spans(data: Path, localizer: Localizer) -> None:
    questions = read_questions(data)[:4]
    free = list(ask_all(localizer, questions, max_new_tokens=6))
    held = list(ask_all(localizer, questions, constrained=True, max_new_tokens=40))
    assert not all(answer.spans for answer in free)
    for answer in held:
        starts, ends = answer.times_seconds[::2], answer.times_seconds[1::2]
        assert all(start <= end for start, end in zip(starts, ends, strict=False))


def test_the_posterior_answers_in_continuous_time(data: Path, localizer: Localizer) -> None:
    questions = read_questions(data)[:4]
    answers = list(ask_all(localizer, questions, ask=localizer.weigh, batch_size=3))
    for question, answer in zip(questions, answers, strict=True):
        (span,), marks = answer.spans, localizer.tt.grid.sample_times(answer.duration_seconds)
        assert answer.times_seconds == tuple(span) and 0 <= span.start <= span.end <= answer.duration_seconds
        assert len(answer.probabilities) == 2 and all(0 < chance < 1 for chance in answer.probabilities)
        assert 0 < answer.confidences[0] < 1
        assert min(abs(marks - span.start)) > 0 or min(abs(marks - span.end)) > 0  # between the marks
        assert question.reference.duration_seconds == pytest.approx(answer.duration_seconds)


def test_an_answer_that_breaks_off_behind_a_moment_is_unfinished(
    data: Path, localizer: Localizer, monkeypatch: Any
) -> None:
    """LITA's code never reads the last token as a moment; there it is lost, elsewhere it counts."""
    question = read_questions(data)[0]
    first, end = localizer.tt.time_token_ids[0], localizer.processor.tokenizer.eos_token_id
    for ids, unfinished in (([first + 4, first + 14], True), ([first + 4, first + 14, end], False)):
        monkeypatch.setattr(localizer.model, "generate", saying([ids]))
        (answer,) = ask_all(localizer, [question])
        assert answer.unfinished == unfinished and answer.probabilities == pytest.approx((0.5, 0.5))
        original, ours = (score([question], [answer], protocol=name) for name in ("lita-rtl", "lita-rtl-strict"))
        assert original.values["parsed"] == 1 - unfinished and ours.values["parsed"] == 1
        assert original.per_sample[0].windows == ((Span(0, 1.0),) if unfinished else original.per_sample[0].windows)


def test_a_missing_answer_counts_as_the_protocol_says(data: Path, localizer: Localizer) -> None:
    question = read_questions(data)[0]
    (answer,) = ask_all(localizer, [question], max_new_tokens=1)
    nothing = replace(answer, times_seconds=())
    assert score([question], [nothing]).miou == pytest.approx(0.5)  # half a second of the whole video
    assert score([question], [nothing]).values["parsed"] == 0
    assert score([question], [nothing], protocol="lita-rtl-strict").miou == 0


def test_a_number_is_reproduced_by_its_manifest(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = save(tmp_path / "model"), tmp_path / "out"
    options = [
        "--out",
        str(out),
        "--max-new-tokens",
        "4",
        "--protocol",
        "nemo-rtl",
        "--decoding",
        "free",
        "--seed",
        "7",
    ]
    assert main(["evaluate", str(model), str(data), *options]) == 0
    assert "nemo-rtl" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["protocol"]["name"] == "nemo-rtl" and manifest["sha256"]["model"].keys() >= {"model.safetensors"}
    assert manifest["sha256"]["data"].keys() == {"asked.json"} and set(manifest["versions"]) >= {"timetok", "torch"}
    program, *command = shlex.split(manifest["command"])
    assert program == "timetok"
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    for name in ("report.json", "samples.csv", "manifest.json", "answers-0-of-1.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    (model / "generation_config.json").write_text("{}")
    capsys.readouterr()
    assert main(["evaluate", str(model), str(data), *options]) == 2
    assert "holds files of other settings" in capsys.readouterr().err


def test_answers_of_a_run_are_predictions_of_another_system(data: Path, localizer: Localizer, tmp_path: Path) -> None:
    questions = read_questions(data)
    report = run(localizer, questions, tmp_path, protocol="lita-rtl-strict", settings={}, max_new_tokens=6)
    same = score_file(tmp_path / "answers-0-of-1.jsonl", questions, protocol="lita-rtl-strict")
    assert report is not None and same.per_sample == report.per_sample and not any(same.problems.values())


def test_dense_captions_are_scored_and_written_for_their_scorers(
    tmp_path: Path, localizer: Localizer, monkeypatch: Any
) -> None:
    path = tiny_data.write(tmp_path, "captions")
    for vid in ("v_QOlSCBRmfWY", "v_bikes"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        write_clip(tmp_path / "videos" / f"{vid}.mp4")
    questions = read_questions(path, "dense-captions")
    said = "<0.00> <1.00> A woman dances. <1.00> <2.00> She bows."
    ids = localizer.tt(said, duration=2.0, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(localizer.model, "generate", saying([ids] * 2))
    report = run(localizer, questions, tmp_path / "out", protocol="dense-captions", settings={})
    assert report is not None and report.values.keys() >= {"precision", "recall", "F1", "count"}
    answers = read_answers(tmp_path / "out")
    write_captions(tmp_path / "captions.json", {vid: parse_captions(each.text) for vid, each in answers.items()})
    told = json.loads((tmp_path / "captions.json").read_text())["results"]
    assert told.keys() == {"v_QOlSCBRmfWY", "v_bikes"} and len(told["v_bikes"]) == 2
    assert told["v_bikes"][0]["timestamp"] == pytest.approx([0.0, 1.0], abs=0.06)
    assert asdict(report)["protocol"]["name"] == "dense-captions"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"relevant_windows": []}, "7: lacks a question and a window"),
        ({"query": " "}, "7: lacks a question"),
    ],
)
def test_what_an_entry_lacks_is_told(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    entry = {"qid": 7, "vid": "a", "query": "It rains", "duration": 20, "relevant_windows": [[1, 2]]}
    path = tmp_path / "highlights.json"  # a list, where the published file has lines
    path.write_text(json.dumps([{**entry, "saliency_scores": [[4, 4, 4]], "relevant_clip_ids": [3]}]))
    (question,) = read_questions(path, "qvhighlights")
    assert question.reference.saliency[3] == (4, 4, 4)
    path.write_text(json.dumps([{**entry, **change}]))
    with pytest.raises(DataError, match=told):
        read_questions(path, "qvhighlights")


def test_a_wording_needs_a_place_for_the_event(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"wording: expected a question with \{event\} in it, got 'When\?'"):
        read_questions(tmp_path, wording="When?")


def test_what_was_refused_may_be_put_right_in_the_same_folder(data: Path, localizer: Localizer, tmp_path: Path) -> None:
    lost, found = read_questions(data, media=tmp_path), read_questions(data)
    how: Any = {"protocol": "lita-rtl", "max_new_tokens": 2}
    with pytest.raises(DataError, match="media: expected a file"):
        run(localizer, lost, tmp_path / "out", settings={"media": "elsewhere"}, **how)
    assert run(localizer, found, tmp_path / "out", settings={}, **how) is not None
    with (tmp_path / "out" / "answers-0-of-1.jsonl").open("a") as file:
        file.write('{"question_id": 3}\n')
    with pytest.raises(DataError, match="expected the answers of an evaluation"):
        read_answers(tmp_path / "out")
