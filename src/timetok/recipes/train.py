"""The recipe from an empty folder to a model: clips, their features by a frozen encoder, tokenizer, language model.

Each step leaves its result in the output folder and is skipped where that exists, and training resumes from its
checkpoints: a run that was interrupted ends at the weights of one that was not.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors.torch import load_file, load_model
from timm.optim.muon import Muon
from tokenizers import Tokenizer
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from timetok import __version__, plots
from timetok.atomic import read_json, replacing, write_json
from timetok.errors import DataError
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor
from timetok.lita.answer import TINY_MODEL, Localizer
from timetok.losses import SoftTimeLoss
from timetok.recipes.features import CachedClip, Conversations, cache_features
from timetok.recipes.shapes import claim, write_dataset
from timetok.recipes.tasks import SEEN_PAIRS
from timetok.vision import FrameEncoder

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

    The model comes into ``out/model``. Processes that torchrun or accelerate started share samples, and the videos to
    encode. DataError: the folder holds a run of another preset, or a setting is refused.
    """
    settings = {**preset, "data": {**preset["data"], "folder": ""}, "wordings": WORDINGS}  # where it is, is no setting
    stage_arguments(preset, out)  # refused now, not after an hour
    model, processor = build_model(preset)
    first = PartialState().is_main_process
    with PartialState().main_process_first():
        claim(out / "preset.json", settings)
    if (out / "model").exists():
        return out / "model"
    sources, tasks = shapes_sources(preset, model, processor, out) if "lm" in preset else (
        video_sources(preset, model, processor, out)
    )
    log = train_stages(preset, model, processor, sources, tasks, out)
    if first:
        _save(model, processor, settings, log, out / "model")
    PartialState().wait_for_everyone()
    return out / "model"


def shapes_sources(
    preset: Preset, model: LitaForConditionalGeneration, processor: LitaProcessor, out: Path
) -> list[CachedClip]:
@torch.no_grad()
def whiten(projector: nn.Module, clips: Sequence[CachedClip]) -> None:
    """Start a linear projector so that its outputs are uncorrelated and as long as a few token embeddings.

    What all frames share is most of a feature; until it is gone, attention cannot tell frames apart.
    """
    weight, bias = projector.get_parameter("weight"), projector.get_parameter("bias")
    frames = torch.cat([clip.features[::7].float().mean(1) for clip in clips[:400]])
    variances, directions = torch.linalg.eigh(torch.cov(frames.T))
    whitening = directions * variances.clamp_min(1e-5 * variances[-1]).rsqrt()
    turn = torch.linalg.qr(torch.randn(max(weight.shape), max(weight.shape))).Q
    weight.copy_(0.5 * turn[: len(weight), : weight.shape[1]] @ whitening.T)
    bias.copy_(-(weight @ frames.mean(0)))


def train_stages(
    preset: Preset, model: LitaForConditionalGeneration, processor: LitaProcessor, clips: list[CachedClip], out: Path
) -> list[dict[str, Any]]:
    """Train stage after stage, reading a finished one back; the Trainers' logs together, with steps counted on."""
    log, before = [], 0
    for number, (stage, arguments) in enumerate(zip(preset["stages"], stage_arguments(preset, out), strict=True)):
        told = {key: stage[key] for key in ("num_samples", "num_frames", "turns", "rates")}
        data = Conversations(clips=clips, processor=processor, seed=preset["data"]["seed"] + number, **told)
        loss = SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])
        optimizers = muon(model, arguments, matrix_learning_rate=stage["matrix_learning_rate"]), None
        used = {"train_dataset": data, "data_collator": data.collate, "compute_loss_func": loss}
        entries = fit(model, arguments, optimizers=optimizers, **used)
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


def muon(model: nn.Module, arguments: TrainingArguments, *, matrix_learning_rate: float) -> Optimizer:
    """Muon for the matrices of whatever is named ``layers``, AdamW as ``arguments`` say for the rest that is trained.

    Which frames match a name is found in about half the steps that AdamW alone needs.

    Source: K. Jordan et al., Muon (2024), as timm has it.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in trained if weight.ndim == 2 and ".layers." in name]
    rest = [weight for name, weight in trained if weight.ndim != 2 or ".layers." not in name]
    for_muon = {"params": matrices, "lr": matrix_learning_rate, "weight_decay": arguments.weight_decay}
    for_adamw = {"params": rest, "lr": arguments.learning_rate, "use_fallback": True}
    betas = arguments.adam_beta1, arguments.adam_beta2
    return Muon([for_muon, for_adamw], betas=betas, nesterov=True, adjust_lr_fn="original")


def _write_card(folder: Path, preset: Preset, log: Sequence[Mapping[str, Any]], model: PreTrainedModel) -> None:
    """How a model came to be, beside it: ``training.json``, ``curve.png`` and, filled into card.md, ``README.md``."""
    points = [(entry["step"], float(entry["loss"])) for entry in log if "loss" in entry]
    steps, losses = zip(*points, strict=True)
    versions = {"timetok": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "transformers", "timm", "accelerate")}
    steps_taken = sum(stage["trainer"]["max_steps"] for stage in preset["stages"])
    minutes = round(sum(entry.get("train_runtime", 0.0) for entry in log) / 60, 1)
    device = f"{model.device} ({torch.get_num_threads()} CPU threads)"
    facts = {"steps": steps_taken, "minutes": minutes, "device": device, "parameters": model.num_parameters()}
    facts |= {"versions": versions, "preset": preset}
    write_json(folder / "training.json", {**facts, "curve": points})
    plots.save(plots.curves(steps, {"loss": losses}, xlabel="step", ylabel="training loss"), folder / "curve.png")
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    card = card.format(**facts, num_pairs=len(SEEN_PAIRS), first=losses[0], last=losses[-1])
    (folder / "README.md").write_text(card, encoding="utf-8")
