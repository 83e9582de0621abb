"""From a preset to a trained model: its recipe builds the model and opens the data, the HF Trainer does the rest.

Each step leaves its result in the output folder and is skipped where that exists, and training resumes from its
checkpoints: a run that was interrupted ends at the weights of one that was not.
"""

import csv
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from math import nan
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_model
from torch import nn
from transformers import Trainer, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from timetok import __version__, plots
from timetok.atomic import replacing, write_json
from timetok.errors import DataError
from timetok.lita import LitaForConditionalGeneration, LitaProcessor
from timetok.losses import SoftTimeLoss
from timetok.recipes.cache import claim
from timetok.recipes.lita import Preset
from timetok.recipes.mixture import Mixture, Source
from timetok.recipes.preset import load_recipe
from timetok.recipes.tasks import WORDINGS


def build_model(preset: Preset, **options: bool) -> tuple[LitaForConditionalGeneration, LitaProcessor]:
    """The model that the preset's recipe builds, on the seed of the data, and its processor; DataError if that fails.

    ``options`` are those of `timetok.recipes.lita.build_model`.
    """
    recipe = load_recipe(preset)
    try:
        set_seed(preset["data"]["seed"])
        model, processor = recipe.build_model(preset, **options)
        SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])  # refused now, not after an hour
    except Exception as error:  # a setting can break a library anywhere; the cause stays attached
        raise DataError(f"preset: cannot be built: {shorten(str(error), 400)}") from error
    return model, processor


def stage_arguments(preset: Preset, out: Path) -> list[TrainingArguments]:
    """``TrainingArguments`` of every stage, on the seed of the data; DataError if transformers refuses some."""
    fixed: Any = {"seed": preset["data"]["seed"], "report_to": [], "save_total_limit": 2}
    fixed |= {"remove_unused_columns": False, "dataloader_pin_memory": False}
    found = []
    for number, stage in enumerate(preset["stages"]):
        try:
            found.append(TrainingArguments(str(out / f"stage-{number}"), **fixed, **stage["trainer"]))
            if not isinstance(steps := found[-1].max_steps, int) or steps < 1:
                raise ValueError(f"max_steps is {steps!r}, expected a whole number of at least 1")
        except (TypeError, ValueError) as error:
            raise DataError(f"trainer: TrainingArguments of {stage['trainer']} are refused: {error}") from error
    return found


def train(preset: Preset, out: Path) -> Path:
    """Run every stage of a preset, as ``load_preset`` gives it, and resume a run of the same folder ``out``.

    The model comes into ``out/model``. Processes that torchrun or accelerate started share the work. DataError: the
    folder holds a run of another preset, or a setting is refused.
    """
    recipe, data = load_recipe(preset), preset["data"]
    settings = {**preset, "data": {**data, "folder": ""}, "wordings": WORDINGS}  # where it is, is no setting
    stage_arguments(preset, out)  # refused now, not after an hour
    asked = {task for stage in preset["stages"] for rates in stage["rates"].values() for task in rates}
    if unknown := asked - recipe.TASKS.keys():
        raise DataError(f"rates: there is no task {sorted(unknown)}, only {[*recipe.TASKS]}")
    model, processor = build_model(preset)
    claim(out / "preset.json", settings)
    if (out / "model").exists():
        return out / "model"
    sources = recipe.open_sources(preset, model, processor, Path(data["folder"] or out))
    log = train_stages(preset, model, processor, sources, out)
    if PartialState().is_main_process:
        if hasattr(model.model.lm, "merge_and_unload"):
            model.model.lm = model.model.lm.merge_and_unload()
        if "start" not in preset:
            nn.Module.half(model)  # which halves the file
        with replacing(out / "model") as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            _write_card(folder, recipe.CARD, settings, log, model)
    PartialState().wait_for_everyone()
    return out / "model"


def train_stages(
    preset: Preset,
    model: LitaForConditionalGeneration,
    processor: LitaProcessor,
    sources: Callable[[Mapping[str, Any]], Mapping[str, Source]],
    out: Path,
) -> list[dict[str, Any]]:
    """Train stage after stage, reading a finished one back; the Trainers' logs together, with steps counted on."""
    log, before, recipe = [], 0, load_recipe(preset)
    for number, (stage, arguments) in enumerate(zip(preset["stages"], stage_arguments(preset, out), strict=True)):
        told = {key: stage[key] for key in ("num_samples", "turns", "rates", "max_length") if key in stage}
        told |= {"sources": sources(stage), "tasks": recipe.TASKS, "seed": preset["data"]["seed"] + number}
        data = Mixture(processor=processor, **told)
        loss = SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])
        used: dict[str, Any] = {"train_dataset": data, "data_collator": data.collate, "compute_loss_func": loss}
        entries = fit(model, arguments, optimizers=(recipe.optimizer(model, arguments, stage), None), **used)
        log += [{**entry, "step": entry["step"] + before} for entry in entries]
        before += arguments.max_steps
    return log


def fit(model: nn.Module, arguments: TrainingArguments, **trainer_kwargs: Any) -> list[dict[str, Any]]:
    """Train with the HF Trainer, from the last checkpoint in ``arguments.output_dir`` if there is one; its log.

    ``trainer_kwargs`` are handed to ``Trainer``; the schedule of ``arguments`` scales the learning rates of optimizers.
    """
    trainer, folder = Trainer(model, arguments, **trainer_kwargs), Path(str(arguments.output_dir))
    # The Trainer writes trainer_state.json last, so a torn checkpoint lacks it.
    states = map(TrainerState.load_from_json, map(str, folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")))
    last = max(states, key=lambda state: state.global_step, default=None)
    checkpoint = last and str(folder / f"{PREFIX_CHECKPOINT_DIR}-{last.global_step}")
    if last and last.global_step >= arguments.max_steps:  # resumed there, the Trainer would take one step more
        load_model(model, f"{checkpoint}/model.safetensors", strict=False)  # tied weights are stored once
        return list(last.log_history)
    trainer.train(resume_from_checkpoint=checkpoint)
    return list(trainer.state.log_history)


def _write_card(folder: Path, card: Path, preset: Preset, log: Sequence[Mapping[str, Any]], model: Any) -> None:
    """How a model came to be, beside it: ``training.json``, its curve as CSV and PNG, and a filled in ``README.md``."""
    points = [(entry["step"], float(entry["loss"])) for entry in log if "loss" in entry] or [(0, nan)]
    steps, losses = zip(*points, strict=True)
    versions = {"timetok": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "transformers", "timm", "accelerate")}
    steps_taken = sum(stage["trainer"]["max_steps"] for stage in preset["stages"])
    minutes = round(sum(entry.get("train_runtime", 0.0) for entry in log) / 60, 1)
    device = f"{model.device} ({torch.get_num_threads()} CPU threads)"
    facts = {"steps": steps_taken, "minutes": minutes, "device": device, "parameters": model.num_parameters()}
    facts |= {"versions": versions, "preset": preset}
    write_json(folder / "training.json", {**facts, "curve": points})
    with (folder / "curve.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("step", "loss"), *points])
    plots.save(plots.curves(steps, {"loss": losses}, xlabel="step", ylabel="training loss"), folder / "curve.png")
    text = card.read_text(encoding="utf-8").format(**facts, first=losses[0], last=losses[-1])
    (folder / "README.md").write_text(text, encoding="utf-8")
