"""LITA's recipe on small files of the real layouts: built, trained from pixels and from a cache, by one and by two."""

import contextlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_sets
from timetok.cli import main
from timetok.errors import DataError
from timetok.lita import LitaForConditionalGeneration
from timetok.lita.answer import Localizer
from timetok.pooling import SlowFastPooler
from timetok.recipes.train import build_model, dry_run, load_preset, open_sources, train

BLOCKS = ("json", "toml", "bash")  # of the docs' first run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lita")
    tiny_sets.write_data(made)
    tiny_sets.write_parts(made)
    return made


def trained(folder: Path, out: Path, **changes: str) -> dict[str, torch.Tensor]:
    """Weights of the last checkpoint."""
    train(load_preset(str(tiny_sets.write_preset(folder, **changes))), out)
    return load_file(out / "stage-0" / "checkpoint-4" / "model.safetensors")


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def from_cache(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cached")
    trained(folder, out)
    return out


def test_the_model_is_made_of_its_parts(folder: Path) -> None:
    preset = load_preset(str(tiny_sets.write_preset(folder)))
    model, processor = build_model(preset)
    lm = load_file(folder / "lm" / "model.safetensors")
    rows = len(lm["model.embed_tokens.weight"])
    table = model.model.lm.get_input_embeddings().weight
    assert torch.equal(table[:rows], lm["model.embed_tokens.weight"])
    assert len(table) > max(processor.tt.time_token_ids) and len(processor.tt.time_token_ids) == 10
    assert processor.num_frames == 4 and processor.system.startswith("A chat between")
    assert not any(weight.requires_grad for weight in model.model.vision.parameters())
    projector = {
        f"model.mm_projector.{name}": torch.full_like(each, 0.5)
        for name, each in model.model.projector.state_dict().items()
    }
    save_file(projector, folder / "mm_projector.safetensors")
    file = f'"{folder / "mm_projector.safetensors"}"'
    model, _ = build_model(load_preset(str(tiny_sets.write_preset(folder, start__projector=file))))
    assert all((each == 0.5).all() for each in model.model.projector.parameters())


def test_a_language_model_of_pickles_is_read_as_tensors_alone(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "lm", tmp_path / "lm")
    weights = load_file(tmp_path / "lm" / "model.safetensors")
    (tmp_path / "lm" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "lm" / "pytorch_model.bin")  # as Vicuna was published
    preset = load_preset(str(tiny_sets.write_preset(folder)))
    expected = build_model(preset)[0].state_dict()
    preset["start"]["lm"] = str(tmp_path / "lm")
    assert same(build_model(preset)[0].state_dict(), expected)


def test_a_cache_trains_to_the_bits_of_the_pixels(folder: Path, from_cache: Path, tmp_path: Path) -> None:
    found = load_file(from_cache / "stage-0" / "checkpoint-4" / "model.safetensors")
    assert same(found, trained(folder, tmp_path, data__cached="false"))
    assert not (tmp_path / "features").exists()
    before = build_model(load_preset(str(tiny_sets.write_preset(folder))))[0].state_dict()
    moved = {name for name in found if not torch.equal(found[name], before[name])}
    assert not any("vision" in name for name in moved) and len(moved) > 10


def test_the_run_keeps_what_it_was_told_and_what_it_gave(from_cache: Path) -> None:
    told = json.loads((from_cache / "preset.json").read_text())
    assert len(told["wordings"]["when"]) == 4
    lines = (from_cache / "model" / "curve.csv").read_text().splitlines()
    assert lines[0] == "step,loss" and [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    assert "trained by `timetok train`" in (from_cache / "model" / "README.md").read_text()
    localizer = Localizer.load(from_cache / "model")
    assert len(localizer.tt.time_token_ids) == 10


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # read by peft
@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_what_it_says_and_is_merged(folder: Path, tmp_path: Path, tied: bool) -> None:
    lora = '{ r = 4, target_modules = ["q_proj"] }'
    tiny_sets.write_lm(tmp_path / "lm", tied=tied)
    preset = load_preset(str(tiny_sets.write_preset(folder, start__lora=lora, start__lm=f'"{tmp_path / "lm"}"')))
    model, _ = build_model(preset)
    learned = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all(any(part in name for part in ("lora_", "trainable_tokens", "projector")) for name in learned)
    train(preset, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert not any("lora" in name for name in weights)
    plain = load_file(tmp_path / "lm" / "model.safetensors")
    assert not torch.equal(
        weights["model.lm.model.layers.0.self_attn.q_proj.weight"], plain["model.layers.0.self_attn.q_proj.weight"]
    )
    assert torch.equal(
        weights["model.lm.model.layers.0.self_attn.k_proj.weight"], plain["model.layers.0.self_attn.k_proj.weight"]
    )
    Localizer.load(tmp_path / "out" / "model")


def test_halves_round_no_frequency_and_a_saved_model_says_what_the_trained_one_said(
    folder: Path, tmp_path: Path
) -> None:
    preset = load_preset(str(tiny_sets.write_preset(folder, start__dtype='"bfloat16"')))
    model, processor = build_model(preset)
    buffers = dict(model.model.lm.named_buffers())
    assert buffers and all(buffer.dtype == torch.float32 for name, buffer in buffers.items() if "inv_freq" in name)
    batch = processor.prompts(["When? " * 60])
    model.train(False).save_pretrained(tmp_path)
    again = LitaForConditionalGeneration.from_pretrained(tmp_path, dtype="bfloat16").eval()
    assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_a_torn_checkpoint_is_passed_over(folder: Path, from_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(from_cache, tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "model")
    state = tmp_path / "torn" / "stage-0" / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text()[:-9])
    train(load_preset(str(tiny_sets.write_preset(folder))), tmp_path / "torn")
    weights = Path("stage-0") / "checkpoint-4" / "model.safetensors"
    assert same(load_file(tmp_path / "torn" / weights), load_file(from_cache / weights))


def test_media_that_are_missing_are_told_and_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("videos", "images"):
        shutil.copytree(folder / name, tmp_path / name)
    for name in tiny_sets.SETS:
        shutil.copy(folder / f"{name}.json", tmp_path)
    (tmp_path / "videos" / "v_1.mp4").unlink()
    sets = tiny_sets.sets(tmp_path).replace('" }', '", bad = "clip" }')
    train(load_preset(str(tiny_sets.write_preset(folder, data__sets=sets))), tmp_path / "out")
    assert "missing media     1  'v_1'" in capsys.readouterr().out
    sets = sets.replace(str(tmp_path / "images"), str(tmp_path / "nosuch"))
    with pytest.raises(DataError, match=r"no record of \['llava'\] has its media"):
        train(load_preset(str(tiny_sets.write_preset(folder, data__sets=sets))), tmp_path / "other")


def test_spans_without_a_duration_are_refused_since_no_token_stands_for_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "charades.txt").write_text("v_0 0.5 2.5##a person opens a door.\n")
    sets = f'{{ mine = {{ path = "{tmp_path / "charades.txt"}", media = "{folder / "videos"}" }} }}'
    preset = tiny_sets.write_preset(folder, data__sets=sets, stages__0__rates="{ mine = { event_loc = 1 } }")
    with pytest.raises(DataError, match=r"data.sets.mine: there are spans in videos without a duration"):
        train(load_preset(str(preset)), tmp_path / "out")


@pytest.mark.parametrize(
    "rates",
    [
        "{ anet = 1 }",
        '{ anet = { dvc = "1" } }',
        "{ anet = { dvc = 0 } }",
        "{ anet = {} }",
        "{ anet = { dvc = 2, event_loc = -1 } }",
        "{ anet = { dvc = 1, event_loc = nan } }",
    ],
)
def test_rates_that_are_no_numbers_by_set_and_task_are_refused(folder: Path, tmp_path: Path, rates: str) -> None:
    with pytest.raises(DataError, match="rates: "):
        train(load_preset(str(tiny_sets.write_preset(folder, stages__0__rates=rates))), tmp_path)


def test_a_table_beside_a_base_is_no_less_than_whole(folder: Path) -> None:
    path = tiny_sets.write_preset(folder)
    path.write_text(f"{path.read_text()}\n[loss]\nsigma = 2.0\n[model]\nnum_frames = 50\n")
    with pytest.raises(DataError, match=r"preset.model: missing \['codec'"):
        load_preset(str(path))
    path.write_text(path.read_text().partition("[model]")[0])
    assert load_preset(str(path))["loss"] == {"sigma": 2.0}


def test_a_task_of_ones_own_lies_beside_the_preset(folder: Path, tmp_path: Path) -> None:
    (folder / "my_tasks.py").write_text(
        "from timetok.recipes.tasks import Turn\n\n"
        "def how_many(record, rng):\n"
        '    return [Turn("How many events are there?", str(len(record.events)))]\n\n'
        'TASKS = {"how_many": how_many}\n'
    )
    path = tiny_sets.write_preset(folder, stages__0__rates="{ anet = { how_many = 1, dvc = 1 } }")
    path.write_text(f'code = "my_tasks"\n{path.read_text()}')
    train(load_preset(str(path)), tmp_path)
    assert (tmp_path / "model" / "model.safetensors").exists()
    with pytest.raises(DataError, match="code: expected a module beside the preset, got 'nosuch'"):
        train(load_preset(str(path), ["code=nosuch"]), tmp_path / "other")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # read by peft
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # the oldest know no other
def test_the_first_run_of_the_docs_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")
    section = page.partition("## A first run")[2].partition("\n## ")[0]
    data, preset, commands = (section.partition(f"```{kind}\n")[2].partition("```")[0] for kind in BLOCKS)
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    shutil.copy(folder / "videos" / "v_0.mp4", "videos/clip1.mp4")
    Path("mine.json").write_text(data)
    Path("mine.toml").write_text(preset)
    small = [f'start.lm="{folder / "lm"}"', f'start.clip="{folder / "clip"}"', "model.num_frames=4"]
    small += ["stages.0.trainer.max_steps=2", "stages.0.trainer.use_cpu=true", "stages.0.trainer.bf16=false"]
    small += ["stages.0.trainer.dataloader_num_workers=0"]
    for command in commands.splitlines():
        told = shlex.split(command)[1:]
        assert main(told + [part for each in small for part in ("--set", each)] * (told[0] == "train")) == 0, command
    assert json.loads(Path("runs/mine/score/report.json").read_text())["num_samples"] == 1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # read by peft
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('start.lm="nosuch"', "nosuch"),
        ("start.lora={r=4,nosuch=1}", "nosuch"),
        ("data.sets.anet.nosuch=1", "nosuch"),
        ("model.projector=nosuch", "projector"),
        ("stages.0.rates.nosuch={dvc=1}", "nosuch"),
        ("stages.0.rates.rtl={nosuch=1}", "nosuch"),
    ],
)
def test_a_bad_setting_is_named(folder: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        train(load_preset(str(tiny_sets.write_preset(folder)), [change]), tmp_path)
    assert not (tmp_path / "preset.json").exists()  # what is put right can be run there


@pytest.mark.parametrize("name", ["lita-7b", "lita-13b", "lita-qwen3"])
def test_shipped_presets_have_the_published_rates(name: str) -> None:
    preset = load_preset(name)
    (stage,) = preset["stages"]
    by_task: dict[str, float] = {}
    for rates in stage["rates"].values():
        for task, rate in rates.items():
            by_task[task] = by_task.get(task, 0) + rate
    assert by_task == dict.fromkeys(("dvc", "event_loc", "vidqa", "imgqa", "rtl"), 6)
    assert stage["rates"]["activitynet"]["dvc"] == 5 * stage["rates"]["youcook2"]["dvc"]
    trainer = stage["trainer"]
    assert trainer["max_steps"] * 128 == pytest.approx(500_000, rel=1e-3)
    assert 128 % (trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"]) == 0
    assert stage["rates"].keys() == preset["data"]["sets"].keys()


@pytest.mark.slow  # three processes
@pytest.mark.parametrize("cached", ["true", "false"])
def test_two_processes_train_what_one_of_twice_the_batch_does(folder: Path, tmp_path: Path, cached: str) -> None:
    trainer = (
        "{ max_steps = 4, per_device_train_batch_size = 1, learning_rate = 1e-2, logging_steps = 1, save_steps = 4, "
    )
    trainer += "use_cpu = true, max_grad_norm = 0.0 }"
    alone = trained(
        folder, tmp_path / "one", data__cached=cached, stages__0__trainer=trainer.replace("size = 1", "size = 2")
    )
    preset = tiny_sets.write_preset(folder, data__cached=cached, stages__0__trainer=trainer)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command = [*torchrun, "timetok.cli", "train", str(preset), "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "two" / "stage-0" / "checkpoint-4" / "model.safetensors")
    assert found.keys() == alone.keys()
    for name in alone:
        torch.testing.assert_close(found[name], alone[name], rtol=1e-3, atol=1e-4)


def run_killed_after(seconds: float, command: list[str]) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait()


@pytest.mark.slow  # two minutes
def test_killed_at_20_random_moments_it_ends_at_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    trainer = "{ max_steps = 300, per_device_train_batch_size = 2, learning_rate = 1e-3, logging_steps = 50, "
    trainer += "save_steps = 10, use_cpu = true }"
    preset = str(tiny_sets.write_preset(folder, stages__0__trainer=trainer, stages__0__num_samples="600"))
    command = [sys.executable, "-m", "timetok.cli", "train", preset, "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    rng, moments = random.Random(0), []
    while len(moments) < 20:
        moments.append(rng.uniform(1.0, 12.0))
        run_killed_after(moments[-1], [*command, str(tmp_path / "killed")])
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    kept = ["model/model.safetensors", "stage-0/checkpoint-300/model.safetensors", "features/*.safetensors"]
    names = [path.relative_to(tmp_path / "whole") for name in kept for path in (tmp_path / "whole").glob(name)]
    assert len(names) == 2 + 5  # shards of three videos and two images
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_too_short_for_its_log_ends_well(folder: Path, tmp_path: Path) -> None:
    trainer = "{ max_steps = 1, per_device_train_batch_size = 2, use_cpu = true }"
    train(load_preset(str(tiny_sets.write_preset(folder, stages__0__trainer=trainer))), tmp_path)
    assert "nan at the start" in (tmp_path / "model" / "README.md").read_text()


def test_a_dry_run_tells_what_it_would_do(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["train", str(tiny_sets.write_preset(folder)), "--out", str(out), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("parameters", "trained", "tokens", "GiB", "anet", "records"))
    assert main(["train", str(tiny_sets.write_preset(folder)), "--out", str(out), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["plan"] in text
    assert not out.exists()
    with pytest.raises(DataError, match=r"--dry-run: expected a preset with a \[start\]"):
        dry_run(load_preset(str(Path(__file__).parents[2] / "examples" / "shapes.toml")))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # read by peft
@pytest.mark.parametrize("lora", ["{}", '{ r = 4, target_modules = ["q_proj"] }'])
def test_a_dry_run_counts_the_parameters_of_the_run(folder: Path, lora: str) -> None:
    preset = load_preset(str(tiny_sets.write_preset(folder, start__lora=lora)))
    weights = list(build_model(preset)[0].parameters())
    total, trained = sum(map(torch.numel, weights)), sum(each.numel() for each in weights if each.requires_grad)
    assert f"{total:,}, {trained:,} of them trained" in dry_run(preset)


def test_a_model_that_cannot_be_trained_from_a_cache_is_refused_before_it_is_filled(
    folder: Path, tmp_path: Path
) -> None:
    preset = load_preset(str(tiny_sets.write_preset(folder)))
    model, processor = build_model(preset)
    inner = model.model
    kept = inner.order, inner.time_markers, inner.pooler
    unfit = {"order": "project-first", "time_markers": True, "pooler": SlowFastPooler.preset("lita-1.5", dim=32)}
    for name, value in unfit.items():
        inner.order, inner.time_markers, inner.pooler = kept
        setattr(inner, name, value)
        with pytest.raises(DataError, match=r"data\.cached: expected false"):
            open_sources(preset, model, processor, tmp_path)
        open_sources(preset | {"data": preset["data"] | {"cached": False}}, model, processor, tmp_path)
    assert not list(tmp_path.iterdir())
