"""Strategies of training in stages: what learns in each and from what, how they go on, a share of the videos."""

import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file

import tiny_sets
from timetok.cli import main
from timetok.errors import DataError
from timetok.recipes.records import Record, read_records
from timetok.recipes.tasks import TASKS, Mixture
from timetok.recipes.train import build_model, load_preset, load_recipe, train
from tiny_training import CHECKPOINTING

FOLDER = Path(__file__).parent.parent / "examples" / "strategies"
load_recipe(load_preset(str(FOLDER / "s3-iv.toml")))  # puts its folder on the path
staged = sys.modules["staged"]
IMAGES, VIDEOS = "images", "videos"
BOTH = {IMAGES, VIDEOS}
STRATEGIES = {  # the paper's: what each stage is trained on
    "s4-v": [{IMAGES}, {IMAGES}, {IMAGES}, {VIDEOS}],
    "s3-iv": [{IMAGES}, {IMAGES}, BOTH],
    "s2-s3-iv": [{IMAGES}, BOTH, BOTH],
}
OF_IMAGES = {"pairs": "llava", "captions": "llava", "llava": "llava"}
OF_VIDEOS = {"activitynet": "anet", "youcook2": "yc2", "nextqa": "nextqa", "rtl": "rtl"}
SMALL = "max_steps = 2, per_device_train_batch_size = 2, learning_rate = 1e-2, logging_steps = 1, save_steps = 2"
FOUR = SMALL.replace("max_steps = 2", "max_steps = 4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("strategies")
    tiny_sets.write_data(made, num_videos=4)
    tiny_sets.write_parts(made)
    return made


def changes(name, folder, trainer=SMALL):
    """``--set`` of a strategy for tiny files and short stages, which train what its own do."""
    told = {"start.lm": folder / "lm", "start.clip": folder / "clip", "model.num_frames": 4}
    told |= {"model.num_time_tokens": 10}
    for own, file in (OF_IMAGES | OF_VIDEOS).items():
        told[f"data.sets.{own}.path"] = folder / f"{file}.json"
        told[f"data.sets.{own}.media"] = folder / (IMAGES if own in OF_IMAGES else VIDEOS)
    for number, stage in enumerate(load_preset(str(FOLDER / f"{name}.toml"))["stages"]):
        told |= {f"stages.{number}.max_length": 480, f"stages.{number}.num_samples": 8}
        modules = json.dumps(stage["trainer"]["optim_target_modules"])
        told[f"stages.{number}.trainer"] = f"{{ optim_target_modules = {modules}, use_cpu = true, {trainer} }}"
    return [f"{key}={value}" for key, value in told.items()]


def small(name, folder, *more, trainer=SMALL):
    return load_preset(str(FOLDER / f"{name}.toml"), [*changes(name, folder, trainer), *more])


def weights_of(out, stage):
    """Those of its last checkpoint."""
    files = (out / f"stage-{stage}").glob("checkpoint-*/model.safetensors")
    return load_file(max(files, key=lambda file: int(file.parent.name.partition("-")[2])))


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def trained(name, folder, out, *more, monkeypatch=None, trainer=SMALL):
    """A run; the weights before it and after each stage, and, if they are listened to, those with which each began."""
    preset, begun = small(name, folder, *more, trainer=trainer), []
    before = {name: weight.clone() for name, weight in build_model(preset)[0].state_dict().items()}
    if monkeypatch:

        def listen(model, arguments, stage, optimizer=staged.optimizer):
            begun.append({name: weight.clone() for name, weight in model.state_dict().items()})
            return optimizer(model, arguments, stage)

        monkeypatch.setattr(staged, "optimizer", listen)
    train(preset, out)
    return [before, *(weights_of(out, stage) for stage in range(len(preset["stages"])))], begun


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, trained("s3-iv", folder, out, trainer=FOUR)[0]


# the files


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_mixes_videos_in_where_the_paper_does(name):
    preset = load_preset(str(FOLDER / f"{name}.toml"))
    sets = preset["data"]["sets"]
    assert {name for name, told in sets.items() if told.get("share") == 0.1} == OF_VIDEOS.keys()
    assert sets.keys() - OF_VIDEOS.keys() == OF_IMAGES.keys()
    kinds = dict.fromkeys(OF_IMAGES, IMAGES) | dict.fromkeys(OF_VIDEOS, VIDEOS)
    assert [{kinds[source] for source in stage["rates"]} for stage in preset["stages"]] == STRATEGIES[name]
    modules = [stage["trainer"]["optim_target_modules"] for stage in preset["stages"]]
    assert modules == [["projector"]] + [["projector", "lm"]] * (len(STRATEGIES[name]) - 1)
    for stage in preset["stages"]:  # every sample is seen once, on 8 processes
        trainer = stage["trainer"]
        assert trainer["max_steps"] * trainer["per_device_train_batch_size"] * 8 == pytest.approx(
            stage["num_samples"], rel=1e-3
        )


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_dry_run_tells_what_each_stage_trains(name, folder, tmp_path, capsys):
    told = [part for change in changes(name, folder) for part in ("--set", change)]
    assert main(["train", str(FOLDER / f"{name}.toml"), "--out", str(tmp_path / "out"), "--dry-run", *told]) == 0
    text, (model, _) = capsys.readouterr().out, build_model(small(name, folder))
    projector = sum(weight.numel() for weight in model.model.projector.parameters())
    rest = sum(weight.numel() for weight in model.model.lm.parameters())
    assert f"stage 0 trains {projector:,} parameters: ['projector']" in text
    for stage in range(1, len(STRATEGIES[name])):
        assert f"stage {stage} trains {projector + rest:,} parameters: ['projector', 'lm']" in text
    assert text.count("tokens a sample") == len(STRATEGIES[name]) and not (tmp_path / "out").exists()


# what learns


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_stage_goes_on_from_the_last_and_changes_what_it_names(name, folder, tmp_path, monkeypatch):
    states, begun = trained(name, folder, tmp_path, monkeypatch=monkeypatch)
    for stage, start in enumerate(begun):
        assert same({key: start[key] for key in states[stage]}, states[stage])
        changed = {key for key in start if not torch.equal(start[key], states[stage + 1][key])}
        named = ("model.projector.",) if stage == 0 else ("model.projector.", "model.lm.")
        assert changed == {key for key in start if key.startswith(named)}
    assert len(begun) == len(STRATEGIES[name])
    tower = [key for key in begun[0] if key.startswith("model.vision.")]
    assert tower and all(torch.equal(states[0][key], states[-1][key]) for key in tower)


def test_a_stage_at_no_rate_ends_as_the_one_before_and_a_part_of_the_language_model_may_be_named(folder, run, tmp_path):
    part = 'stages.2.trainer.optim_target_modules="lm.model.layers.1"'
    found, _ = trained("s3-iv", folder, tmp_path, "stages.1.trainer.learning_rate=0.0", part, trainer=FOUR)
    assert same(found[1], run[1][1]) and same(found[2], run[1][1])
    changed = {key for key in found[2] if not torch.equal(found[2][key], found[3][key])}
    assert changed == {key for key in found[2] if key.startswith("model.lm.model.layers.1.")} and changed


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # read by peft
def test_lora_learns_from_the_stage_on_that_names_the_language_model(folder, tmp_path):
    lora = 'start.lora={ r = 4, target_modules = ["q_proj"] }'
    states, _ = trained("s3-iv", folder, tmp_path, lora)
    own = [key for key in states[0] if "lora_" in key or "trainable_tokens_delta" in key]
    assert len(own) == 2 * 2 + 2  # two layers; rows of the table and of the head
    for stage, after in enumerate(states[1:]):
        changed = {key for key in after if not torch.equal(states[stage][key], after[key])}
        expected = {key for key in after if key.startswith("model.projector.")} | ({*own} if stage else set())
        told = {key for key in own if "embed_tokens" in key}  # its rows learn where times are read: of videos alone
        assert changed == expected - (told if stage < 2 else set())


def test_gradient_checkpointing_changes_nothing(folder, run, tmp_path):
    found, _ = trained("s3-iv", folder, tmp_path, trainer=f"{FOUR}, {CHECKPOINTING} = true")
    for stage, (ours, plain) in enumerate(zip(found, run[1], strict=True)):
        assert stage != 1 or {key for key in ours if not torch.equal(ours[key], found[0][key])} == {
            key for key in ours if key.startswith("model.projector.")
        }
        for key, weight in plain.items():
            torch.testing.assert_close(ours[key], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('stages.2.trainer.optim_target_modules=["vision"]', r"nothing learns in 'vision'; .*\['lm', 'projector'\]"),
        ('stages.1.trainer.optim_target_modules=["projector","lm.nosuch"]', "nothing learns in 'lm.nosuch'"),
        ('stages.1.trainer.optim_target_modules=["proj"]', "nothing learns in 'proj'"),
        ("data.sets.rtl.share=0", "share: expected more than 0 and at most 1, got 0"),
        ("data.sets.rtl.share=1.01", "share: expected more than 0"),
        ("data.sets.rtl.share=nan", "share: expected more than 0"),
        ("data.sets.rtl.share=some", "data.sets.rtl"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_trained(folder, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        train(small("s3-iv", folder, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# how it goes on


class Killed(BaseException):
    pass


def test_killed_in_the_third_stage_and_resumed_it_ends_at_the_same_bits(folder, run, tmp_path, monkeypatch):
    out, whole = run
    draw, drawn = Mixture.__getitem__, []

    def die(self, index):
        drawn.append(self.seed)
        if drawn.count(2) > 6:  # in the last of four steps of two; stages have the seeds 0, 1, 2
            raise Killed
        return draw(self, index)

    preset = small("s3-iv", folder, trainer=FOUR)
    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "__getitem__", die)
        with pytest.raises(Killed):
            train(preset, tmp_path / "killed")
    left = sorted(path.name for path in (tmp_path / "killed" / "stage-2").glob("checkpoint-*"))
    assert left and "checkpoint-4" not in left and not (tmp_path / "killed" / "model").exists()
    train(preset, tmp_path / "killed")
    for stage in range(3):
        assert same(weights_of(tmp_path / "killed", stage), whole[stage + 1])
    assert same(*(load_file(each / "model" / "model.safetensors") for each in (out, tmp_path / "killed")))


@pytest.mark.slow  # three processes
def test_a_process_killed_in_the_third_stage_ends_at_the_same_bits(folder, tmp_path):
    told = [
        part
        for change in changes("s4-v", folder, SMALL.replace("max_steps = 2", "max_steps = 12"))
        for part in ("--set", change)
    ]
    command = [sys.executable, "-m", "timetok.cli", "train", str(FOLDER / "s4-v.toml"), *told, "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((tmp_path / "killed" / "stage-2").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    for stage in range(4):
        assert same(weights_of(tmp_path / "killed", stage), weights_of(tmp_path / "whole", stage))


@pytest.mark.slow  # three processes
def test_two_processes_train_the_stages_as_one_of_twice_the_batch_does(folder, tmp_path):
    alone = FOUR.replace("learning_rate", "max_grad_norm = 0.0, learning_rate")
    half = alone.replace("batch_size = 2", "batch_size = 1")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for trainer, start, out in ((alone, [sys.executable], "one"), (half, torchrun, "two")):
        told = [part for change in changes("s3-iv", folder, trainer) for part in ("--set", change)]
        command = [
            *start,
            "-m",
            "timetok.cli",
            "train",
            str(FOLDER / "s3-iv.toml"),
            *told,
            "--out",
            str(tmp_path / out),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    for stage in range(3):
        one, two = (weights_of(tmp_path / out, stage) for out in ("one", "two"))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


def test_another_share_in_the_same_folder_is_refused(folder, run):
    with pytest.raises(DataError, match="files of other settings"):
        train(small("s3-iv", folder, "data.sets.rtl.share=0.5", trainer=FOUR), run[0])


# a share of the videos


def record(name, vid):
    return Record(name, vid, None, None, (), "")


names = st.lists(st.text("abc012", min_size=1, max_size=6), unique=True, min_size=1, max_size=60)


@given(names, st.integers(0, 3), st.sampled_from([0.1, 0.25, 0.5]), st.randoms())
def test_a_share_is_the_same_for_its_seed_and_lies_within_a_larger_one(vids, seed, share, rng):
    found = [record(f"{vid}-{query}", vid) for vid in vids for query in range(2)]  # two queries about each
    kept = staged.subset(found, share, seed=seed)
    assert {each.vid for each in kept} == {each.vid for each in staged.subset(found[::2], share, seed=seed)}
    assert len({each.vid for each in kept}) == max(1, round(share * len(vids))) and len(kept) % 2 == 0
    assert [each for each in found if each in kept] == list(kept)  # in the order of the file
    assert {*kept} <= {*staged.subset(found, 2 * share, seed=seed)}
    shuffled = rng.sample(found, len(found))
    assert {*staged.subset(shuffled, share, seed=seed)} == {*kept}
    assert staged.subset(found, 1, seed=seed) == tuple(found)


def test_a_tenth_is_a_tenth_and_another_seed_another_tenth():
    found = [record("", f"v_{k}") for k in range(1000)]
    tenths = [{*staged.subset(found, 0.1, seed=seed)} for seed in range(3)]
    assert [len(tenth) for tenth in tenths] == [100] * 3
    for first, second in ((0, 1), (0, 2), (1, 2)):
        # hypergeometric: 10 in common, their variance 100 · .1 · .9 · 900 / 999
        assert abs(len(tenths[first] & tenths[second]) - 10) < 5 * math.sqrt(100 * 0.1 * 0.9 * 900 / 999)
    assert staged.subset([], 0.1) == ()
    alone = [record(f"q_{k}", "") for k in range(10)]  # a layout without videos' names
    assert len(staged.subset(alone, 0.2)) == 2


def test_videos_are_fewer_and_images_are_whole(folder):
    whole = {name: read_records(folder / f"{file}.json").records for name, file in (OF_IMAGES | OF_VIDEOS).items()}
    for share, num in ((0.1, 1), (0.5, 2), (1.0, 4)):
        told = [f"data.sets.{name}.share={share}" for name in OF_VIDEOS]
        preset = small("s3-iv", folder, "data.cached=false", *told)
        sources = load_recipe(preset).open_sources(preset, *build_model(preset), Path())({})
        names = {name: [record.name for record in source.records] for name, source in sources.items()}
        for name in OF_IMAGES:
            assert names[name] == [record.name for record in whole[name]]
        vids = {name: {record.vid for record in sources[name].records} for name in OF_VIDEOS}
        assert all(len(each) == num and each == vids["rtl"] for each in vids.values())  # the same videos in all


# what is drawn


@pytest.mark.parametrize("name", STRATEGIES)
def test_samples_are_drawn_at_the_rates_of_each_stage(name, folder):
    preset = small(name, folder, "data.cached=false")
    model, processor = build_model(preset)
    sources, features = load_recipe(preset).open_sources(preset, model, processor, Path())({}), {}
    num, seen = 600, Counter()
    for source in sources.values():
        features |= {record.media: torch.empty(1, 0) for record in source.records}

    def counted(source, own):
        def draw(rng, rates, tasks):
            turns, row = own(rng, rates, tasks)
            seen[source] += bool(turns)
            return turns, row

        return draw

    counting = {source: counted(source, replace(own, cache=features)) for source, own in sources.items()}
    for number, stage in enumerate(preset["stages"]):
        seen.clear()
        told = {"tasks": TASKS, "rates": stage["rates"], "processor": processor}
        mixture = Mixture(sources=counting, num_samples=num, seed=number, **told)
        for index in range(num):
            mixture[index]
        rates = {source: sum(tasks.values()) for source, tasks in stage["rates"].items()}
        assert seen.total() == num and seen.keys() == rates.keys()
        for source, rate in rates.items():
            expected = num * rate / sum(rates.values())
            assert abs(seen[source] - expected) <= 5 * math.sqrt(expected * (1 - expected / num))
        images = sum(rates.get(source, 0) for source in OF_IMAGES) / sum(rates.values())
        assert images == (0.5 if STRATEGIES[name][number] == BOTH else float(IMAGES in STRATEGIES[name][number]))
