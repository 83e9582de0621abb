"""From a preset to a trained model: its recipe builds the model and opens the data, the HF Trainer does the rest.

Each step leaves its result in the output folder and is skipped where that exists, and training resumes from its
checkpoints: a run that was interrupted ends at the weights of one that was not.
"""

import platform
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from math import inf, nan
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_model
from torch import nn
from transformers import Trainer, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from timetok import __version__, plots
from timetok.atomic import replacing, write_json
from timetok.errors import DataError, raised_as
from timetok.lita import LitaForConditionalGeneration, LitaProcessor
from timetok.losses import SoftTimeLoss
from timetok.recipes import lita
from timetok.recipes.cache import claim
from timetok.recipes.tasks import WORDINGS, Mixture, Source, Sources

_FOLDERS = Path(__file__).parent / "presets", Path(__file__).parents[3] / "examples"  # these, of a checkout
_ARGUMENTS = {"vision", "transform", "trainer", "pooler", "lm", "lora", "sets", "rates"}


def load_preset(name: str, changes: Iterable[str] = ()) -> dict[str, Any]:
    """Read a preset, by its shipped name or the path of a TOML file, and apply changes.

    Those are ``key=value`` with dotted keys and TOML values (a bare word is a string); ``smoke=true`` makes those of
    the preset's ``[smoke]`` table. A file may name another as its ``base``, with ``[changes]`` of the same form.
    DataError: there is no such preset, it is no TOML, or a key or a value does not fit.

    >>> load_preset("shapes", ["stages.0.trainer.max_steps=10"])["stages"][0]["trainer"]["max_steps"]
    10
    """
    preset, asked = _read(name), dict(map(_read_change, changes))
    smoke, like = preset.pop("smoke", {}), _read("lita-7b") if "start" in preset else deepcopy(preset)
    if asked.pop("smoke", False):
        asked = smoke | asked  # what is asked for outlasts it
    _change(preset, asked)
    _check("preset", like, preset)
    return preset


def load_recipe(preset: lita.Preset) -> Any:
    """LITA's recipe with what the module named by the preset's ``code`` has in its place; DataError if it has none."""
    own: dict[str, Any] = {}
    if code := preset["code"]:
        with raised_as(DataError, f"code: expected a module beside the preset, got {code!r}", ImportError):
            own = vars(import_module(code))
    return SimpleNamespace(**{**vars(lita), **own, "TASKS": lita.TASKS | own.get("TASKS", {})})


def build_model(preset: lita.Preset, *, weights: bool = True) -> tuple[LitaForConditionalGeneration, LitaProcessor]:
    """What the recipe's own `build_model` gives, on the seed of the data; DataError if that fails."""
    with raised_as(DataError, "preset: cannot be built", Exception):  # a setting can break a library anywhere
        set_seed(preset["data"]["seed"])
        model, processor = load_recipe(preset).build_model(preset, weights=weights)
        SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])  # refused now, not after an hour
        return model, processor


def stage_arguments(preset: lita.Preset, out: Path) -> list[TrainingArguments]:
    """``TrainingArguments`` of every stage, on the seed of the data; DataError if transformers refuses some."""
    fixed: Any = {"seed": preset["data"]["seed"], "report_to": [], "save_total_limit": 2}
    fixed |= {"remove_unused_columns": False, "dataloader_pin_memory": False}
    found = []
    for number, stage in enumerate(preset["stages"]):
        with raised_as(DataError, f"trainer: TrainingArguments refuse {stage['trainer']}", TypeError, ValueError):
            found.append(TrainingArguments(str(out / f"stage-{number}"), **fixed, **stage["trainer"]))
            if not isinstance(steps := found[-1].max_steps, int) or steps < 1:
                raise ValueError(f"max_steps is {steps!r}, expected a whole number of at least 1")
    return found


def train(preset: lita.Preset, out: Path) -> Path:
    """Run every stage of a preset, as ``load_preset`` gives it, and resume a run of the same folder ``out``.

    The model comes into ``out/model``. Processes that torchrun or accelerate started share the work. DataError: the
    folder holds a run of another preset, or a setting is refused.
    """
    recipe, data = load_recipe(preset), preset["data"]
    settings = {**preset, "data": {**data, "folder": ""}, "wordings": WORDINGS}  # where it is, is no setting
    stage_arguments(preset, out)  # refused now, not after an hour
    tables = [rates for stage in preset["stages"] for rates in stage["rates"].values()]
    with raised_as(DataError, "rates: expected numbers by set and task, from 0", TypeError, AttributeError, ValueError):
        numbers = [rate for rates in tables for rate in rates.values()]
        if min(numbers, default=-1) < 0 or not 0 < sum(numbers) < inf:
            raise ValueError(f"they are {numbers}")
    if unknown := {task for rates in tables for task in rates} - recipe.TASKS.keys():
        raise DataError(f"rates: there is no task {sorted(unknown)}, only {[*recipe.TASKS]}")
    model, processor = build_model(preset)
    if (out / "preset.json").exists():
        claim(out / "preset.json", settings)
    if (out / "model").exists():
        return out / "model"
    sources = recipe.open_sources(preset, model, processor, Path(data["folder"] or out))
    claim(out / "preset.json", settings)  # only now: what was refused may be put right in the same folder
    log = train_stages(preset, model, processor, sources, out)
    if PartialState().is_main_process and not hasattr(next(model.parameters()), "device_mesh"):  # sharded: see the docs
        model.model.lm = getattr(model.model.lm, "merge_and_unload", lambda: model.model.lm)()
        if "start" not in preset:
            nn.Module.half(model)  # which halves the file
        with replacing(out / "model") as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            _write_card(folder, recipe.CARD, settings, log, model)
    PartialState().wait_for_everyone()
    return out / "model"


def train_stages(
    preset: lita.Preset, model: LitaForConditionalGeneration, processor: LitaProcessor, sources: Sources, out: Path
) -> list[dict[str, Any]]:
    """Train stage after stage, reading a finished one back; the Trainers' logs together, with steps counted on."""
    log, before, recipe = [], 0, load_recipe(preset)
    loss = SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])
    for number, arguments in enumerate(stage_arguments(preset, out)):
        stage = preset["stages"][number]
        data = _mixture(preset, number, sources(stage), processor)
        used: dict[str, Any] = {"train_dataset": data, "data_collator": data.collate, "compute_loss_func": loss}
        own = recipe.optimizer(model, arguments, stage) if hasattr(recipe, "optimizer") else None
        entries = fit(model, arguments, optimizers=(own, None), **used)
        log += [{**entry, "step": entry["step"] + before} for entry in entries]
        before += arguments.max_steps
    return log


def _mixture(preset: lita.Preset, number: int, sources: Mapping[str, Source], processor: LitaProcessor) -> Mixture:
    stage, seed = preset["stages"][number], preset["data"]["seed"] + number
    told = {key: stage[key] for key in ("num_samples", "rates", "max_length") if key in stage}
    return Mixture(sources=sources, tasks=load_recipe(preset).TASKS, processor=processor, seed=seed, **told)


def fit(model: nn.Module, arguments: TrainingArguments, **trainer_kwargs: Any) -> list[dict[str, Any]]:
    """Train with the HF Trainer, from the last checkpoint in ``arguments.output_dir`` if there is one; its log.

    ``trainer_kwargs`` are handed to ``Trainer``; the schedule of ``arguments`` scales the learning rates of optimizers.
    """
    trainer, folder = Trainer(model, arguments, **trainer_kwargs), Path(str(arguments.output_dir))
    files = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")  # written last: a torn one lacks its end
    states = [TrainerState.load_from_json(str(file)) for file in files if file.read_text().endswith("\n}\n")]
    last = max(states, key=lambda state: state.global_step, default=None)
    checkpoint = last and str(folder / f"{PREFIX_CHECKPOINT_DIR}-{last.global_step}")
    if last and last.global_step >= arguments.max_steps:  # resumed there, the Trainer would take one step more
        load_model(model, f"{checkpoint}/model.safetensors", strict=False)  # tied weights are stored once
        return list(last.log_history)
    trainer.train(resume_from_checkpoint=checkpoint)
    return list(trainer.state.log_history)


def dry_run(preset: lita.Preset) -> str:
    """A report on a preset with a ``start``: model, tokens a sample, memory, time. Prints the census, writes nothing.

    Memory is weights, gradients and both moments of AdamW in the dtype of the weights, on one device, and one layer's
    activations with gradient checkpointing; time is that of 8 ``tokens x parameters`` operations a sample, 125e12 in a
    second (two fifths of an A100's bfloat16), on cached features. Both are estimates, unmeasured. DataError as `train`.
    """
    if "start" not in preset:
        raise DataError("--dry-run: expected a preset with a [start], whose data are there before it runs")
    model, processor = build_model(preset, weights=False)
    uncached = {**preset, "data": {**preset["data"], "cached": False}}
    sources = load_recipe(preset).open_sources(uncached, model, processor, Path())
    unseen: Any = defaultdict(lambda: torch.empty(processor.num_video_tokens, 0))  # for features: none is decoded
    weights, trained = model.num_parameters(), model.num_parameters(only_trainable=True)
    lines = [f"parameters        {weights:,}, {trained:,} of them trained"]
    size, config = model.model.lm.dtype.itemsize, model.config.text_config
    for number, arguments in enumerate(stage_arguments(preset, Path())):
        blind = {name: replace(each, cache=unseen) for name, each in sources(preset["stages"][number]).items()}
        mixture = _mixture(preset, number, blind, processor)
        lengths = [mixture.collate([mixture[k]])["labels"].shape[1] for k in range(64)]
        batch = arguments.per_device_train_batch_size
        samples = arguments.max_steps * batch * arguments.gradient_accumulation_steps
        a_token = config.hidden_size * (config.num_hidden_layers + 16) * size + 4 * config.vocab_size
        held = (weights + 3 * trained) * size + batch * max(lengths) * a_token
        hours = 8 * model.model.lm.num_parameters() * median(lengths) * samples / 125e12 / 3600
        told = f"{processor.num_video_tokens} visual; {median(lengths):.0f} in all ({min(lengths)} to {max(lengths)})"
        lines += [f"tokens a sample   {told}"]
        lines += [f"memory            about {held / 2**30:.1f} GiB for {batch} samples at once on one device"]
        lines += [f"time              about {hours:.1f} h of one A100 for {samples:,} samples a process"]
    return "\n".join(lines)


def _write_card(folder: Path, card: Path, preset: lita.Preset, log: Sequence[Mapping[str, Any]], model: Any) -> None:
    """How a model came to be, beside it: ``training.json``, its curve as CSV and PNG, and a filled in ``README.md``."""
    points = [(entry["step"], float(entry["loss"])) for entry in log if "loss" in entry] or [(0, nan)]
    steps, losses = zip(*points, strict=True)
    versions = {"timetok": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "transformers", "timm", "accelerate")}
    facts = {"versions": versions, "preset": preset, "parameters": model.num_parameters()}
    facts["steps"] = sum(stage["trainer"]["max_steps"] for stage in preset["stages"])
    facts["minutes"] = round(sum(entry.get("train_runtime", 0.0) for entry in log) / 60, 1)
    facts["device"] = f"{model.device} ({torch.get_num_threads()} CPU threads)"
    write_json(folder / "training.json", {**facts, "curve": points})
    curve = [("step", "loss"), *points]
    (folder / "curve.csv").write_text("".join(f"{step},{loss}\n" for step, loss in curve), encoding="utf-8")
    plots.save(plots.curves(steps, {"loss": losses}, xlabel="step", ylabel="training loss"), folder / "curve.png")
    text = card.read_text(encoding="utf-8").format(**facts, first=losses[0], last=losses[-1])
    (folder / "README.md").write_text(text, encoding="utf-8")


def _read(name: str, *derived: Path) -> dict[str, Any]:
    """A preset by its name or path, with those of which it is the base, nearest last."""
    shipped = {path.stem: path for folder in _FOLDERS for path in sorted(folder.glob("*.toml"))}
    path, told = shipped.get(name, Path(name)), f"preset: expected one of {[*shipped]} or a TOML file, got {name!r}"
    with raised_as(DataError, told, OSError, ValueError):
        preset = tomllib.loads(path.read_text(encoding="utf-8"))
    if path in derived:
        raise DataError(f"base: expected a preset that does not lead back to itself, got {name!r}")
    if preset.get("code") and (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.append(folder)
    if "base" not in preset:
        return preset
    base = _read(str(preset["base"]), *derived, path)
    _change(base, {key: preset[key] for key in preset.keys() - {"base", "changes"}} | preset.get("changes", {}))
    return base


def _change(preset: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        *names, last = key.split(".")
        table: Any = preset
        told = f"--set: the preset has no {key!r}; its tables are {', '.join(sorted(preset))}"
        with raised_as(DataError, told, LookupError, TypeError, ValueError):
            for each in names:
                table = table[int(each) if isinstance(table, list) else each]
            table[last] = value


def _read_change(change: str) -> tuple[str, Any]:
    key, sign, text = change.partition("=")
    if not sign or not all(key.split(".")) or (key == "smoke" and text not in ("true", "false")):
        raise DataError(f"--set: expected key=value, or smoke=true, got {change!r}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def _check(key: str, like: Any, value: Any) -> None:
    """Keys and kinds of values are those of a shipped preset; what goes to a library as arguments is checked there."""
    kind = type(like)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or value == [] or (kind is int and value < min(like, 1)):  # of the whole numbers only the seed may be 0
        raise DataError(f"{key}: expected {kind.__name__} (counts are at least 1, lists not empty), got {value!r}")
    if kind is list:  # each of the stages as the first
        like, value = dict.fromkeys(range(len(value)), like[0]), dict(enumerate(value))
    if isinstance(like, dict) and key.rpartition(".")[2] not in _ARGUMENTS:
        missing, unknown = sorted(like.keys() - value.keys()), sorted(value.keys() - like.keys())
        if missing or unknown:
            raise DataError(f"{key}: missing {missing}, unknown {unknown}; compare the shipped presets")
        for name in like:
            _check(f"{key}.{name}", like[name], value[name])
