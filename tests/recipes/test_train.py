"""The recipe, run for real on a handful of clips: it learns, it resumes to the same bytes, it refuses a mix-up."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shapes_world.features import CachedClip, draw_cut
from shapes_world.recipe import shapes_tokenizer
from shapes_world.tasks import shown
from timetok.cli import main
from timetok.errors import DataError
from timetok.lita.answer import Localizer
from timetok.recipes.evaluate import evaluate_model, read_questions
from timetok.recipes.train import build_model, load_preset, train
from timetok.timegrid import Span
from timetok.vision import FrameEncoder

SMOKE = "smoke=true"
EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPES = str(EXAMPLES / "shapes.toml")  # a checkout knows its name, too


def command(out: Path, *changes: str) -> list[str]:
    sets = [part for change in changes for part in ("--set", change)]
    return [sys.executable, "-m", "timetok.cli", "train", SHAPES, "--out", str(out), *sets]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    subprocess.run(command(out, SMOKE), check=True, capture_output=True)
    return out


def run_killed_at(checkpoint: Path, arguments: list[str]) -> None:
    """Start a run and kill it as soon as a checkpoint is complete."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (checkpoint / "trainer_state.json").exists():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def test_the_loss_falls_and_the_card_says_how(whole_run: Path) -> None:
    facts = json.loads((whole_run / "model" / "training.json").read_text())
    losses = [loss for _, loss in facts["curve"]]
    assert losses[-1] < losses[0] - 0.5
    assert facts["steps"] == 12 and [stage["trainer"]["max_steps"] for stage in facts["preset"]["stages"]] == [8, 4]
    assert "knows nothing else" in (whole_run / "model" / "README.md").read_text()
    assert (whole_run / "model" / "curve.png").stat().st_size > 1000
    assert (whole_run / "model" / "model.safetensors").stat().st_size <= 5_000_000


def test_the_trained_folder_answers_and_is_scored(whole_run: Path) -> None:
    localizer = Localizer.load(whole_run / "model")
    questions = read_questions(whole_run / "clips")
    report = evaluate_model(localizer, questions[:6], batch_size=4)
    assert report.num_samples == 6
    assert 0 <= report.miou <= 1


@pytest.mark.slow  # in the quick suite a torn run of `lita` goes on
@pytest.mark.parametrize(("stage", "step"), [("stage-0", 4), ("stage-1", 2)])
def test_a_killed_run_resumes_to_the_same_weights(whole_run: Path, tmp_path: Path, stage: str, step: int) -> None:
    arguments = command(tmp_path, SMOKE, f"data.folder={str(whole_run)!r}")  # its clips and features
    run_killed_at(tmp_path / stage / f"checkpoint-{step}", arguments)
    assert not (tmp_path / "model").exists() and not (tmp_path / "clips").exists()
    subprocess.run(arguments, check=True, capture_output=True)
    weights = Path("stage-1") / "checkpoint-4" / "model.safetensors"  # float32, before they are stored as float16
    expected, found = load_file(whole_run / weights), load_file(tmp_path / weights)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_preset_in_the_same_folder_is_refused(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(whole_run, SMOKE, "loss.sigma=2.0")[3:]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_run_that_is_done_is_found_before_its_model_is_built(
    whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(train.__globals__, "build_model", None)
    assert train(load_preset(SHAPES, [SMOKE]), whole_run) == whole_run / "model"


def test_features_of_another_preset_are_refused(whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"other settings \(cache.json\)"):
        train(load_preset(SHAPES, [SMOKE, "features.frames_per_clip=60", f"data.folder={whole_run}"]), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lr", "key=value"),
        ("nosuch.key=1", "nosuch"),
        ("nosuch=1", "nosuch"),
        ("loss.sigm=0", "sigm"),
        ("stages.1.turns=0", "turns"),
        ("data.num_clips=ten", "num_clips"),
        ("=1", "key=value"),
        ("lm=1", "lm: expected dict"),
        ("data=1", "data: expected dict"),
        ("data.seed=-1", "seed: expected int"),
        ("model.time_markers=1", "time_markers: expected bool"),
        ("stages=1", "stages: expected list"),
        ("stages=[]", "stages: expected list"),
        ("stages=[{turns=1}]", r"stages.0: missing \['matrix_learning_rate'"),
        ("stages.7.num_samples=1", "stages"),
        ("stages.0.num_frames=none", "num_frames"),
        ("smoke=maybe", "smoke"),
    ],
)
def test_bad_changes_are_refused(change: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_preset(SHAPES, [change])


@pytest.mark.parametrize("name", ["nosuch", "missing.toml"])
def test_a_preset_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=name):
        load_preset(name)


@pytest.mark.parametrize("bases", [{"a": "a"}, {"a": "b", "b": "c", "c": "a"}, {"a": "b", "b": "b"}])
def test_a_preset_that_is_based_on_itself_is_refused(bases: dict[str, str], tmp_path: Path) -> None:
    for name, base in bases.items():
        (tmp_path / f"{name}.toml").write_text(f'base = "{tmp_path / base}.toml"\n')
    with pytest.raises(DataError, match="base: expected a preset that does not lead back to itself"):
        load_preset(str(tmp_path / "a.toml"))


@pytest.mark.parametrize(
    "change",
    ["stages.0.trainer.max_stepz=3", "stages.1.trainer.max_steps=ten", "loss.sigma=-1", "model.codec=nosuch",
     "lm.num_attention_heads=3", "vision.name=nosuch", "vision.name=resnet18", "transform.crop=nosuch",
     "data.tower=nosuch", "model.pooler={fast=1,nosuch=2}"],
)  # fmt: skip
def test_a_bad_setting_is_refused_before_any_work(tmp_path: Path, change: str) -> None:
    with pytest.raises(DataError, match=r"trainer|cannot be built"):
        train(load_preset(SHAPES, [change]), tmp_path)
    assert not (tmp_path / "clips").exists()


def same(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
    )


def test_the_tower_is_the_bundled_one_or_that_of_a_file_or_timms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = Localizer.load().model.model.vision
    torch.manual_seed(3)
    other = FrameEncoder(**load_preset(SHAPES)["vision"])
    save_file(other.state_dict(), tmp_path / "encoder.safetensors")
    assert same(build_model(load_preset(SHAPES))[0].model.vision, bundled)
    assert same(
        build_model(load_preset(SHAPES, [f"data.tower={tmp_path / 'encoder.safetensors'}"]))[0].model.vision, other
    )
    monkeypatch.setattr("shapes_world.recipe.FrameEncoder", lambda **_: other)  # in place of timm's download
    assert same(build_model(load_preset(SHAPES, ["vision.pretrained=true"]))[0].model.vision, other)


@pytest.mark.skipif(not EXAMPLES.with_name("src").exists(), reason="a wheel does not know the examples' names")
def test_presets_of_a_checkout_go_by_their_names() -> None:
    assert load_preset("shapes") == load_preset(SHAPES)


def test_changes_are_toml_values_and_bare_words() -> None:
    preset = load_preset(
        SHAPES, ["stages.0.trainer.learning_rate=1e-4", "model.pooler={fast=false}", "vision.name=resnet18"]
    )
    assert preset["stages"][0]["trainer"]["learning_rate"] == 1e-4
    assert preset["model"]["pooler"] == {"fast": False}
    assert preset["vision"]["name"] == "resnet18"


def test_only_answers_are_learned_and_prompts_keep_their_ids() -> None:
    processor = build_model(load_preset(SHAPES))[1]
    turns = [("When is the red circle visible?", "<1.00> <4.00>"), ("How many shapes appear?", "two")]
    row = {"turns": processor.conversation(turns, 10.0), "video_features": torch.zeros(100, 16, 1)}
    batch = processor.prompts.collate([{**row, "duration_seconds": 10.0}])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    learned = processor.tokenizer.decode([label for label in labels if label != -100])
    assert learned.split("</s>")[:2] == [" <t10> <t40>", " two"]
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    prompt = processor.prompts(processor.prompt(turns[0][0]), counts=[processor.num_video_tokens])["input_ids"][0]
    assert ids[: len(prompt)] == prompt.tolist()
    assert ids.count(processor.video_token_id) == processor.num_video_tokens == 100 + 16


def test_the_tokenizer_spells_anything() -> None:
    text = "Où est le cercle? 日本 <t5>"
    tokenizer = shapes_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_cut_is_what_a_file_of_that_part_would_show() -> None:
    fps, total = 10.0, 200
    features = torch.arange(total, dtype=torch.float16).view(total, 1, 1)
    clip = CachedClip(features, fps, (shown("red", "circle", Span(5.0, 12.0)),))
    for seed in range(50):
        picked, duration, events = draw_cut(clip, np.random.default_rng(seed), 100)
        frames = picked.flatten().numpy()
        first, count = frames[0], round(duration * fps)
        assert frames[-1] == first + count - 1
        expected = np.round(np.linspace(0, count - 1, 100)) + first
        assert np.array_equal(frames, expected)
        assert len(events) == 1
        visible = (events[0].span.start + first / fps, events[0].span.end + first / fps)
        assert visible == pytest.approx((max(5.0, first / fps), min(12.0, first / fps + duration)))
        assert events[0].span.duration_seconds >= 0.05 * duration


def test_targets_say_what_is_on_screen() -> None:
    events = (shown("red", "circle", Span(1.0, 2.0)), shown("blue", "ring", Span(1.5, 3.0)))
    times = np.array([0.5, 1.0, 1.5, 2.0, 3.0])
    frame_targets = runpy.run_path(str(EXAMPLES / "shapes_encoder.py"))["frame_targets"]
    assert frame_targets(events, times).sum(1).tolist() == [0, 3, 6, 3, 0]
    assert frame_targets(events[:1], times).sum(1).tolist() == [0, 3, 3, 0, 0]
