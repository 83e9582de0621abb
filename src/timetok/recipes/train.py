"""The recipe from an empty folder to a model: clips, tokenizer, frame encoder, features, language model.

Each stage leaves its result in the output folder and is skipped where that exists; the two training stages
resume from their checkpoints. A run that was interrupted ends at the weights of one that was not.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, TrainingArguments, set_seed

from timetok import __version__, plots
from timetok.atomic import read_json, replacing, write_json
from timetok.errors import DataError
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor
from timetok.losses import SoftTimeLoss
from timetok.recipes.features import CachedClip, Conversations, FrameClassifier, cache_features, train_encoder
from timetok.recipes.hf import fit, muon
from timetok.recipes.shapes import read_scenes, write_dataset
from timetok.recipes.tasks import SEEN_PAIRS, corpus
from timetok.vision import FrameEncoder, FrameTransform

Preset = Mapping[str, Any]


def build_tokenizer(*, seed: int = 0, vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the wordings of the tasks: small, and able to spell any question."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special: Any = {"special_tokens": ["<pad>", "</s>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, **special)
    backend.train_from_iterator((f"USER: {text} ASSISTANT:" for text in corpus(4000, seed=seed)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


def build_processor(preset: Preset, grid: tuple[int, int]) -> LitaProcessor:
    """The processor of a preset, its tokenizer trained on the tasks' wordings."""
    tokenizer = build_tokenizer(seed=preset["data"]["seed"])
    told = {name: preset["model"][name] for name in ("num_frames", "num_time_tokens", "codec", "pooler")}
    return LitaProcessor(tokenizer, transform=preset["transform"], grid=grid, **told)


def build_model(preset: Preset, processor: LitaProcessor) -> LitaForConditionalGeneration:
    """A LITA with random weights, sized by the preset."""
    tokenizer = processor.tokenizer
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "bos_token_id": None, **ids, **preset["lm"]}
    ids |= {"time_token_ids": processor.tt.time_token_ids, "video_token_id": processor.video_token_id}
    frames = {name: preset[name] for name in ("vision", "transform")}
    return LitaForConditionalGeneration(LitaConfig(text_config=text, **frames, **preset["model"], **ids))


def training_arguments(folder: Path, preset: Preset, settings: Mapping[str, Any]) -> TrainingArguments:
    """``TrainingArguments`` of one stage, on the seed of the data; DataError if transformers refuses them."""
    fixed: Any = {"output_dir": str(folder), "seed": preset["data"]["seed"], "report_to": [], "save_total_limit": 2}
    try:
        arguments = TrainingArguments(**fixed, remove_unused_columns=False, dataloader_pin_memory=False, **settings)
    except (TypeError, ValueError) as error:
        raise DataError(f"trainer: transformers' TrainingArguments refuses {dict(settings)}: {error}") from error
    if not isinstance(arguments.max_steps, int) or arguments.max_steps < 1:
        raise DataError(f"trainer.max_steps: expected a whole number of at least 1, got {arguments.max_steps!r}")
    return arguments


def train(preset: Preset, out: Path) -> Path:
    """Run every stage of a preset, as ``load_preset`` gives it, and resume a run of the same folder ``out``.

    The model comes into ``out/model``. DataError: the folder holds a run of another preset, or a setting is refused.
    """
    data = preset["data"]
    clips, cache = Path(data.get("folder") or out / "clips"), Path(data.get("cache") or out)
    for_encoder, *stages = _check(preset, cache, out)
    recorded = {key: value for key, value in data.items() if key not in ("folder", "cache")}  # where is no setting
    settings = {**preset, "data": recorded}
    _claim(out / "preset.json", settings)
    if (out / "model").exists():
        return out / "model"
    if "folder" not in data:
        write_dataset(clips, num_clips=data["num_clips"], split="train", seed=data["seed"], workers=2)
    records = list(read_scenes(clips).values())
    _claim(cache / "cache.json", {key: settings[key] for key in ("data", "vision", "transform", "encoder", "features")})
    set_seed(data["seed"])
    encoder, transform = FrameEncoder(**preset["vision"]), FrameTransform(**preset["transform"])
    frames, classifier = preset["encoder"]["frames_per_clip"], FrameClassifier(encoder, transform)
    train_encoder(records, classifier, for_encoder, frames_per_clip=frames)
    frames = preset["features"]["frames_per_clip"]
    cached = cache_features(records, encoder, transform, cache / "features.safetensors", frames_per_clip=frames)

    set_seed(data["seed"])
    processor = build_processor(preset, encoder.grid)
    model = build_model(preset, processor)
    model.vision.load_state_dict(encoder.state_dict())
    whiten(model.model.projector, cached)
    started = time.monotonic()
    log = train_stages(preset, model, processor, cached, stages)
    facts: dict[str, Any] = {"minutes": round((time.monotonic() - started) / 60, 1)}
    facts["device"] = f"{stages[0].device} ({torch.get_num_threads()} CPU threads)"
    facts["parameters"] = model.num_parameters()
    nn.Module.half(model)  # which halves the file
    with replacing(out / "model") as partial_folder:
        model.save_pretrained(partial_folder)
        processor.save_pretrained(partial_folder)
        _write_card(partial_folder, settings, log, facts)
    return out / "model"


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
    preset: Preset,
    model: LitaForConditionalGeneration,
    processor: LitaProcessor,
    clips: Sequence[CachedClip],
    stages: Sequence[TrainingArguments],
) -> list[dict[str, Any]]:
    """Train stage after stage, reading a finished one back; the Trainers' logs together, with steps counted on."""
    log, before = [], 0
    for number, (stage, arguments) in enumerate(zip(preset["stages"], stages, strict=True)):
        told = {key: stage[key] for key in ("num_samples", "num_frames", "turns", "rates")}
        data = Conversations(clips=clips, processor=processor, seed=preset["data"]["seed"] + number, **told)
        loss = SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])
        optimizers = muon(model, arguments, matrix_learning_rate=stage["matrix_learning_rate"]), None
        used = {"train_dataset": data, "data_collator": data.collate, "compute_loss_func": loss}
        entries = fit(model, arguments, optimizers=optimizers, **used)
        log += [{**entry, "step": entry["step"] + before} for entry in entries]
        before += arguments.max_steps
    return log


def _check(preset: Preset, cache: Path, out: Path) -> list[TrainingArguments]:
    """Build everything once, so that a bad setting is refused now and not after an hour."""
    arguments = [training_arguments(cache / "encoder", preset, preset["encoder"]["trainer"])]
    for number, stage in enumerate(preset["stages"]):
        arguments.append(training_arguments(out / f"stage-{number}", preset, stage["trainer"]))
    try:
        processor = build_processor(preset, FrameEncoder(**preset["vision"]).grid)
        build_model(preset, processor)
        SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])
    except (TypeError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        raise DataError(f"preset: cannot be built: {error}") from error
    return arguments


def _claim(path: Path, settings: Preset) -> None:
    """Refuse to mix two settings in one folder."""
    if path.exists() and read_json(path, dict, "the settings of a run") != settings:
        raise DataError(f"out: {str(path.parent)!r} holds a run of other settings ({path.name}); choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _write_card(folder: Path, preset: Preset, log: Sequence[Mapping[str, Any]], facts: dict[str, Any]) -> None:
    """How a model came to be, beside it: ``training.json``, ``curve.png`` and, filled into card.md, ``README.md``."""
    points = [(entry["step"], float(entry["loss"])) for entry in log if "loss" in entry]
    steps, losses = zip(*points, strict=True)
    trainers = [stage["trainer"] for stage in preset["stages"]]
    versions = {"timetok": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "transformers", "timm", "accelerate")}
    facts = {"steps": sum(trainer["max_steps"] for trainer in trainers), **facts, "versions": versions}
    write_json(folder / "training.json", {**facts, "preset": preset, "curve": points})
    plots.save(plots.curves(steps, {"loss": losses}, xlabel="step", ylabel="training loss"), folder / "curve.png")
    told = facts | {"num_pairs": len(SEEN_PAIRS), "first": losses[0], "last": losses[-1]}
    told["steps"] = ", then ".join(f"{one['max_steps']} x {one['per_device_train_batch_size']}" for one in trainers)
    told["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    told["markers"] = "on" if preset["model"]["time_markers"] else "off"
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8").format(preset=preset, **told)
    (folder / "README.md").write_text(text, encoding="utf-8")
