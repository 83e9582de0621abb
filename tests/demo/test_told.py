"""What the local page is given to draw, and that it is refused in one line where gradio is missing; no browser here."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from timetok import Span
from timetok.cli import main
from timetok.demo import believed, told
from timetok.errors import ArgumentError, PromptError, VideoError
from timetok.hub import load_localizer
from timetok.lita.answer import Localizer, load_sample
from timetok.metrics import iou
from tiny_lita import build, write_clip
from tiny_video_lms import save

CLIP, QUESTION, TRUTH = load_sample()


@pytest.fixture(scope="module")
def localizer():
    return Localizer.load()


@pytest.fixture(scope="module")
def shown(localizer):
    return told(localizer, str(CLIP), QUESTION)


def test_the_answer_is_the_line_that_localize_prints(shown, capfd):
    assert main(["localize", str(CLIP), QUESTION, "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert json.loads(json.dumps(shown["answer"])) == printed | {"video": CLIP.name}
    assert shown["answer"]["spans"]


def test_the_tokens_are_those_of_the_answer(shown, localizer):
    start, end = localizer.tt.grid.encode([*shown["answer"]["spans"][0].values()], 16.0).tolist()
    assert "".join(shown["tokens"]).split() == [f"<t{start}>", f"<t{end}></s>"]


def test_curves_are_probabilities_at_the_marks(shown, localizer):
    [curve], [span] = shown["curves"], shown["answer"]["spans"]
    assert curve["seconds"] == pytest.approx(np.linspace(0, shown["answer"]["duration_seconds"], 100))
    for side in ("start", "end"):
        assert len(curve[side]) == 100 and min(curve[side]) >= 0
        assert sum(curve[side]) == pytest.approx(1)
    first = curve["seconds"].index(span["start"])
    assert first == int(np.argmax(curve["start"]))  # a greedy answer starts where starting is likeliest
    assert curve["start"][first] >= shown["answer"]["probabilities"][0]  # which was taken over all tokens
    assert json.loads(json.dumps(curve)) == curve


def test_the_best_span_is_that_of_the_posterior_behind_the_prompt(shown, localizer):
    frames = localizer.read(str(CLIP))
    answer = localizer.weigh([localizer.encode(frames)], [QUESTION], [frames.duration_seconds])[0]
    start, end, expected = shown["curves"][0]["best"]
    assert expected == pytest.approx(answer.confidences[0], abs=1e-5)
    assert iou(Span(start, end), TRUTH) > 0.5


def test_each_well_formed_span_has_its_curves(tmp_path):
    model, processor = build()
    localizer = Localizer(model, processor)
    times = processor.tt.time_token_ids
    video = localizer.encode(localizer.read(write_clip(tmp_path / "clip.mp4")))
    prompt = processor.prompts([processor.prompt("When?")], videos=[video])["input_ids"]
    one = [times[2], 9, times[5]]
    twice = believed(localizer, video, prompt, [*one, 9, times[8], times[3], *one], 2.0)  # 8 to 3 runs backwards
    assert len(twice) == 2
    alone = believed(localizer, video, prompt, one, 2.0)[0]
    assert twice[0] == alone
    assert twice[1]["start"] != alone["start"]  # it stands behind the rest of the answer
    assert believed(localizer, video, prompt, [9, times[4]], 2.0) == []


def test_a_model_that_writes_seconds_has_no_curves(tmp_path):
    localizer = load_localizer(save(tmp_path / "model", "qwen3_vl"), num_frames=4)
    shown = told(localizer, str(write_clip(tmp_path / "clip.mp4")), "When is it bright?")
    assert (shown["curves"], len(shown["answer"]["spans"])) == ([], 1)
    assert shown["answer"]["text"] in "".join(shown["tokens"])


def test_typed_time_tokens_stay_text(localizer, monkeypatch):
    read, generate = [], localizer.model.generate
    monkeypatch.setattr(
        localizer.model, "generate", lambda **given: (read.append(given["input_ids"]), generate(**given))[1]
    )
    question = "When is <t12> <b>the</b> yellow ring visible? Give only the times."
    assert told(localizer, str(CLIP), question)["answer"]["question"] == question
    assert set(read[0].flatten().tolist()).isdisjoint(localizer.tt.time_token_ids)


@pytest.mark.parametrize(
    ("video", "question", "error", "says"),
    [
        (None, QUESTION, ArgumentError, "none is chosen"),
        (str(CLIP), "", PromptError, "empty"),
        (str(CLIP), "when? " * 2000, PromptError, "tokens with the video"),
        (str(Path(__file__)), QUESTION, VideoError, "test_told.py"),
    ],
)
def test_mistakes_are_told(localizer, video, question, error, says):
    with pytest.raises(error, match=says):
        told(localizer, video, question)


def test_without_gradio_the_command_names_the_extra(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "pip install 'timetok[demo]'" in err
