"""The command line: what it prints, and that every mistake of a user is one line and exit status 2."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import timetok
import tiny_data
from timetok.cli import _parser, main
from timetok.lita import LitaForConditionalGeneration
from timetok.lita.answer import TINY_MODEL, Localizer
from tiny_lita import CONTEXT, build, save, saying, write_clip

QUESTION = "When is the red circle visible?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp("lita") / "model"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4"))


@pytest.fixture(autouse=True)
def settings_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands are processes of their own: what they set for themselves must not reach the next test."""
    from transformers.utils import logging

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    level = logging.get_verbosity()
    yield
    logging.set_verbosity(level)
    logging.enable_progress_bar()


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put ids into the model's mouth: time tokens by their index, everything else is left out."""
    tt = build()[1].tt

    def put(*marks: int) -> None:
        generate = saying([[tt.time_token_ids[k] for k in marks] or [9]])
        monkeypatch.setattr(LitaForConditionalGeneration, "generate", lambda _, **inputs: generate(**inputs))

    return put


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line a mistake gets."""
    capfd.readouterr()
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("timetok: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err


# -------------------------------------------------------------------------------------------------------- answers


def test_localize_prints_spans_in_seconds(model: str, clip: str, says: Any, capfd: pytest.CaptureFixture[str]) -> None:
    says(0, 19, 7, 3)  # of 20 marks in 2 s; the second pair runs backwards
    assert main(["localize", clip, QUESTION, "--model", model]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert f"question: {QUESTION}\n" in out
    assert "span:     0.00 s to 2.00 s of 2.00 s   (probability of these two marks: 0.25)" in out
    assert out.count("span:") == 1


@pytest.mark.parametrize("marks", [(), (4,), (9, 2)], ids=["no moment", "one moment", "backwards"])
def test_no_well_formed_span_is_said_so(
    marks: tuple[int, ...], model: str, clip: str, says: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    says(*marks)
    assert main(["localize", clip, QUESTION, "--model", model]) == 0
    assert "span:     none" in capfd.readouterr().out
    assert main(["localize", clip, QUESTION, "--model", model, "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["spans"], answer["confidences"]) == ([], [])


@pytest.mark.parametrize("plot", [[], ["--plot"]])
def test_json_is_one_line(
    plot: list[str], model: str, clip: str, says: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    says(0, 19)
    picture = tmp_path / "timeline.png"
    options = [*plot, str(picture)] if plot else []
    assert main(["localize", clip, QUESTION, "--model", model, "--json", *options]) == 0
    out, err = capfd.readouterr()
    assert err == "" and out.count("\n") == 1
    answer = json.loads(out)
    assert answer["video"] == clip and answer["question"] == QUESTION
    assert answer["spans"] == [{"start": 0.0, "end": pytest.approx(2.0)}]
    assert answer["duration_seconds"] == pytest.approx(2.0)
    assert picture.is_file() == bool(plot)


def test_several_questions_get_a_line_each(model: str, clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    questions = [QUESTION, "When is the blue square visible?", "When?"]
    assert main(["localize", clip, *questions, "--model", model, "--json", "--batch-size", "2"]) == 0
    together = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [answer["question"] for answer in together] == questions
    for answer in together:
        assert main(["localize", clip, answer["question"], "--model", model, "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["text"] == answer["text"]
    assert main(["localize", clip, *questions, "--model", model]) == 0
    out = capfd.readouterr().out
    assert [line.removeprefix("question: ") for line in out.splitlines() if line.startswith("question")] == questions


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_questions_come_in_lines_and_a_bad_video_costs_only_its_own(
    source: str, model: str, clip: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    asked = [(clip, QUESTION), (clip, "When?"), (f"{'gone' * 99}.mp4", QUESTION), (clip, QUESTION)]
    lines = "\n".join(json.dumps({"video": video, "question": question}) for video, question in asked) + "\n\n"
    (tmp_path / "asked.jsonl").write_text(lines, encoding="utf-8-sig")  # as some editors write
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    given = str(tmp_path / "asked.jsonl") if source == "file" else "-"
    assert main(["localize", "--input", given, "--model", model]) == 2
    out, err = capfd.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [(answer["video"], answer["question"]) for answer in found] == asked
    assert ["error" in answer for answer in found] == [False, False, True, False] and "gonegone" in found[2]["error"]
    sure = [answer.pop("confidences") + answer.pop("probabilities") for answer in (found[0], found[3])]  # alone or not
    assert found[0] == found[3] and sure[0] == pytest.approx(sure[1], rel=1e-4)
    assert err.count("\n") == 1 and "1 questions" in err


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"video": "a.mp4"}', '{"question": "When?"}', '"text"', '{"video": "a.mp4", "question": null}']
)
def test_a_bad_line_is_refused_before_any_video_is_read(
    line: str, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asked.jsonl").write_text(f'{{"video": "gone.mp4", "question": "When?"}}\n{line}\n')
    assert "--input" in refused(capfd, "localize", "--input", str(tmp_path / "asked.jsonl"), "--model", model)


def test_a_streamed_answer_is_the_answer(model: str, clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["localize", clip, QUESTION, "--model", model]) == 0
    whole = capfd.readouterr().out
    assert main(["localize", clip, QUESTION, "--model", model, "--stream"]) == 0
    assert capfd.readouterr().out.split() == whole.split()


def test_a_time_token_in_a_question_is_plain_text(model: str, clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["localize", clip, "What is <t12>?", "--model", model, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["question"] == "What is <t12>?"


def test_evaluate_scores_a_model(
    model: str, clip: str, says: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(Path(clip).read_bytes())
    entry = {"vid": "a", "question": QUESTION, "answer": "<0.00> <1.00>", "duration": 2.0, "question_id": 0}
    (tmp_path / "rtl.json").write_text(json.dumps([entry]))
    says(0, 19)
    command = ["evaluate", model, str(tmp_path / "rtl.json")]
    assert main(command) == 0
    assert "lita-rtl" in capfd.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["values"]["mIoU"] == pytest.approx(0.5)  # one of two seconds
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, told in (("1", "waits for the answers of other processes"), ("0", "lita-rtl")):
        monkeypatch.setenv("RANK", rank)
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
        assert told in capfd.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["intervals"]["mIoU"] == [
        None,
        None,
    ]  # of one video
    drawn = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert drawn == {"iou.png", "length.png", "place.png", "calibration.png"}


def test_evaluate_in_continuous_time(model: str, clip: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(Path(clip).read_bytes())
    entry = {"vid": "a", "question": QUESTION, "answer": "<0.00> <1.00>", "duration": 2.0, "question_id": 0}
    (tmp_path / "rtl.json").write_text(json.dumps([entry]))
    command = ["evaluate", model, str(tmp_path / "rtl.json"), "--time", "continuous"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    (answer,) = map(json.loads, (tmp_path / "out" / "answers-0-of-1.jsonl").read_text().splitlines())
    (span,), localizer = answer["spans"], Localizer.load(model)
    frames = localizer.read(clip)
    (weighed,) = localizer.weigh([localizer.encode(frames)], [QUESTION], [frames.duration_seconds])
    assert (span["start"], span["end"]) == pytest.approx(tuple(weighed.spans[0]))
    assert "--time=continuous" in json.loads((tmp_path / "out" / "manifest.json").read_text())["command"]
    assert main([*command, "--json"]) == 0
    capfd.readouterr()
    assert "--time continuous" in refused(capfd, *command, "--decoding", "constrained")
    text = save(tmp_path / "text", codec="seconds")
    assert "--time continuous" in refused(capfd, "evaluate", str(text), *command[2:])


def test_score_lists_what_is_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, one = tiny_data.write(tmp_path, "qvhighlights"), tmp_path / "one.jsonl"
    rows = [{"qid": 7920, "pred_relevant_windows": [[140, 150, 0.9], [134, 138, 0.8]]}]
    one.write_text("\n".join(map(json.dumps, [*rows, {"qid": 5, "pred_relevant_windows": []}])))
    command = ["score", str(one), str(data), "--protocol", "qvhighlights"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    told = capfd.readouterr().out
    assert re.search(r"^of no reference: 1  5$", told, re.MULTILINE)
    assert re.search(r"^missing: \d+  ", told, re.MULTILINE)
    assert main([*command, "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    (first,) = [sample for sample in report["per_sample"] if sample["question_id"] == "7920"]
    assert first["measures"]["mIoU"] == 1.0 and first["measures"]["mAP"] == 1.0 and "HIT@1" not in report["values"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["values"] == report["values"]


def test_two_systems_are_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"vid": f"v{k}", "question": "q", "answer": "<0.0> <4.0>", "duration": 8.0} for k in range(6)]
    data, ours, theirs = (tmp_path / f"{name}.json" for name in ("data", "ours", "theirs"))
    data.write_text(json.dumps([{**row, "question_id": k} for k, row in enumerate(rows)]))
    for file, end, num in ((ours, 4.0, 6), (theirs, 2.0, 4)):
        file.write_text(json.dumps([{"question_id": k, "pred": [0.0, end]} for k in range(num)]))
    command = ["score", str(ours), str(data), "--against", str(theirs), "--protocol", "charades-sta"]
    assert main(command) == 0
    *reports, last = capfd.readouterr().out.partition("mIoU        ")[::2]
    assert reports[0].count("charades-sta") == 2 and "missing: 2  4 5" in reports[0]  # what either lacks is listed
    told = dict(line.split(maxsplit=1) for line in f"mIoU  {last}".splitlines())
    assert told["mIoU"].startswith("+0.667  (") and told["R1@0.7"].startswith("+1.000  (+1.000 to +1.000, p = 0.0")
    assert main([*command, "--json"]) == 0
    *_, apart = map(json.loads, capfd.readouterr().out.splitlines())
    assert apart["mIoU"]["value"] == pytest.approx(4 / 6) and apart["mIoU"]["p_value"] < 0.06
    assert "missing.json" in refused(capfd, *command[:4], "missing.json")


def test_plot_draws_spans_and_the_truth(clip: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "clip.svg"
    command = [
        "plot",
        clip,
        str(figure),
        "--spans",
        "0.2-0.9 1-1.5",
        "--truth",
        "from 0.3 to 1.2 s",
        "--title",
        QUESTION,
    ]
    assert main(command) == 0
    assert capfd.readouterr().out == f"timeline: {figure}\n" and figure.stat().st_size > 1000
    assert main([*command, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"timeline": str(figure)}
    assert main(command[:3]) == 0  # nothing but frames
    assert main([*command[:3], "--truth", "2 to 1 s"]) == 0  # as timetok score reads it
    assert "FILE" in refused(capfd, "plot", clip, str(tmp_path / "clip.mp4"))


def test_answers_about_something_else_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, one = tiny_data.write(tmp_path, "timelens"), tmp_path / "one.json"
    one.write_text('{"another": [1, 2]}')
    told = refused(capfd, "score", str(one), str(data), "--protocol", "timelens")
    assert "no id, or video and query, is one of 'v_BrgYIg6UXhU#0' …; the first id is 'another'" in told


def test_data_check_prints_a_census(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "AO8RW.mp4").touch()
    path, durations = tiny_data.write(tmp_path, "charades"), tiny_data.write_durations(tmp_path)
    path.write_text(path.read_text() + "AO8RW 30.0 34.5##person leaves.\n")
    command = ["data", "check", str(path), "--durations", str(durations), "--media", str(tmp_path / "media")]
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert re.search(r"^layout +charades$", out, re.MULTILINE) and re.search(r"^records +4$", out, re.MULTILINE)
    assert re.search(r"^outside the video +1  line 4: event 0: \[30.0, 34.5\] of 33.0 s$", out, re.MULTILINE)
    assert re.search(r"^missing media +1  line 3: 'ZZ9XY'$", out, re.MULTILINE)
    assert main([*command, "--json"]) == 0
    census = json.loads(capfd.readouterr().out)
    assert census["problems"]["missing media"] == ["line 3: 'ZZ9XY'"]
    assert (census["records"], census["spans"], census["hours"]) == (4, 4, round((33.0 + 20.5) / 3600, 2))
    assert main([*command, "--layout", "charades"]) == 0


def test_info_names_versions(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capfd.readouterr().out
    for name in ("timetok", "python", "torch", "transformers", "device"):
        assert re.search(rf"^{name} +\S", out, re.MULTILINE)
    assert re.search(r"^pooling +(torch|triton)", out, re.MULTILINE) and re.search("^- torch +can$", out, re.MULTILINE)


def test_info_and_plan_are_told_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["timetok"] == timetok.__version__ and {"python", "torch", "device", "pooling"} <= set(told)
    assert main(["plan", str(tiny_data.write(tmp_path, "timelens")), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert set(found) == {"enough", "ceilings"} and str(found["enough"]) in found["ceilings"]
    assert found["ceilings"]["100"]["num_spans"] > 0 and found["ceilings"]["100"]["recall"]["0.7"] <= 1


COMMANDS = tomllib.loads(Path(timetok.__file__).with_name("commands.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_with_an_example_that_its_parser_takes(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    example = COMMANDS[command]["example"]
    out = capfd.readouterr().out
    assert out.endswith(f"\n\nexample: {example}\n")  # whole, on one line of a narrow terminal
    assert "\x1b" not in out  # no colours where nobody looks
    program, *given = shlex.split(example)
    assert program == "timetok" and _parser().parse_args(given).command == command == given[0]


def test_usage_and_what_was_given_are_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "half.json").write_text('{"a": [')
    assert main(["plan"]) == main(["dance"]) == main(["localize", "clip.mp4"]) == 2
    assert main(["plan", str(tmp_path / "half.json")]) == main(["plan", str(tmp_path)]) == 2
    assert main(["localize", "gone.mp4", QUESTION]) == 2
    assert capfd.readouterr().out == ""


def test_a_reader_that_has_enough_is_no_mistake() -> None:
    """As `timetok info | head -1` does: no message, and the status that the signal would have given."""
    environment = os.environ | {"PYTHONPATH": str(Path(timetok.__file__).parent.parent)}
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "timetok.cli", "info"]
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, env=environment, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_help_and_version_are_no_mistakes(capfd: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit, match="0"):
            main([option])
        assert "timetok" in capfd.readouterr().out


# ---------------------------------------------------------------------------------------------------------- videos


def truncated(path: Path) -> None:
    whole = write_clip(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def text(path: Path) -> None:
    path.write_text("no video at all\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_frames(path: Path) -> None:
    write_clip(path, num_frames=0)


def sound(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


@pytest.mark.parametrize("make", [None, text, truncated, empty, no_frames, sound, Path.mkdir])
def test_a_bad_video_is_one_line(make: Any, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "broken.mp4"
    if make is not None:
        make(video)
    assert "broken.mp4" in refused(capfd, "localize", str(video), QUESTION, "--model", model)


# ---------------------------------------------------------------------------------------- questions and arguments


@pytest.mark.parametrize("question", ["", "  ", "Is <video> there?", "</s>", "red " * CONTEXT, "\udcff"])
def test_a_bad_question_is_one_line(question: str, model: str, clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "question" in refused(capfd, "localize", clip, question, "--model", model)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["localize"], "VIDEO"),
        (["localize", "clip.mp4"], "QUESTION"),
        (["localize", "clip.mp4", QUESTION, "--sample"], "--sample"),
        (["localize", "clip.mp4", QUESTION, "--input", "asked.jsonl"], "--input"),
        (["localize", "--input", "missing.jsonl"], "missing.jsonl"),
        (["localize", "clip.mp4", QUESTION, "When?", "--plot", "x.png"], "--plot"),
        (["localize", "clip.mp4", QUESTION, "When?", "--stream"], "--stream"),
        (["localize", "clip.mp4", QUESTION, "--stream", "--json"], "--stream not with --long"),
        (["localize", "clip.mp4", QUESTION, "--plots", "x.png"], "--plots"),
        (["train"], "PRESET"),
        (["train", "circles"], "circles"),
        (["train", "circles.toml"], "circles"),
        (["train", "lita-7b", "--set", "smoke"], "--set"),
        (["train", "lita-7b", "--set", "nothing.here=1"], "--set"),
        (["evaluate", "model"], "DATA"),
        (["evaluate", "model", "data", "--protocol", "guess"], "lita-rtl"),
        (["evaluate", "model", "data", "--batch-size", "0"], "--batch-size"),
        (["score", "missing.json", "missing.json"], "missing.json"),
        (["evaluate", "model", "missing.json"], "missing.json"),
        (["data"], "PATH"),
        (["data", "check"], "PATH"),
        (["data", "check", "missing.json"], "missing.json"),
        (["data", "check", "missing.json", "--layout", "mine"], "mine"),
        (["plan", "missing.json"], "missing.json"),
        (["plan", "missing.json", "--bad", "keep"], "keep"),
        (["plot", "missing.mp4", "timeline.png"], "missing.mp4"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused(capfd, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("plot", ["timeline.gif3", "timeline", "missing/timeline.png", "folder.png"])
def test_a_plot_that_cannot_be_written_is_refused_before_the_work(
    plot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    assert "--plot" in refused(capfd, "localize", "missing.mp4", QUESTION, "--model", "missing", "--plot", plot)


@pytest.mark.parametrize("content", ["", "{", "[]", "[1]", '[{"vid": "a"}]', "\udcff"])
def test_unreadable_data_is_one_line(
    content: str, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rtl.json"
    data.write_bytes(content.encode(errors="surrogateescape"))
    assert "rtl.json" in refused(capfd, "evaluate", model, str(data))
    assert "rtl.json" in refused(capfd, "data", "check", str(data))


def test_training_without_accelerate_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for name in [name for name in sys.modules if name.startswith("timetok.recipes")]:
        monkeypatch.delitem(sys.modules, name)  # as in a new process: what needs accelerate is not there yet
    assert "pip install 'timetok[train]'" in refused(capfd, "train", "shapes", "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("config", [None, "", "{", "[1]", '{"model_type": "llama"}', '{"model_type": "lita"}'])
def test_a_folder_without_a_model_is_one_line(
    config: str | None, clip: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    assert "folder" in refused(capfd, "localize", clip, QUESTION, "--model", str(folder))
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    assert "folder" in refused(capfd, "localize", clip, QUESTION, "--model", str(folder))


def test_as_a_process_of_its_own_too(clip: str, tmp_path: Path) -> None:
    """Nothing else reaches stderr: no log line, no progress bar, no warning of a library."""
    broken = save(tmp_path / "broken")
    with (broken / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    command = [sys.executable, "-m", "timetok.cli", "localize", clip, QUESTION, "--model", str(broken)]
    source = Path(timetok.__file__).parent.parent
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("timetok: model: ") and done.stderr.count("\n") == 1, done.stderr


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("timetok.cli._info", interrupt)
    assert main(["info"]) == 130
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not (TINY_MODEL / "config.json").is_file(), reason="the bundled model is not there yet")
def test_the_sample_is_answered(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "demo.png"
    assert main(["localize", "--sample", "--plot", str(picture)]) == 0
    out, err = capfd.readouterr()
    assert err == "" and picture.is_file()
    for row in ("question:", "span:", "truth:", "timeline:", "next:"):
        assert row in out
