"""The model that a preset describes, before it is trained."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from textwrap import shorten
from typing import Any, TypeAlias

import timm
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, set_seed

from timetok import embeddings
from timetok.atomic import read_json
from timetok.errors import DataError
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor
from timetok.lita.answer import TINY_MODEL, Localizer, find_folder, load_weights
from timetok.lita.convert import VICUNA, read_eyes, read_projector
from timetok.losses import SoftTimeLoss
from timetok.vision import FrameEncoder

Preset: TypeAlias = Mapping[str, Any]
Built: TypeAlias = tuple[LitaForConditionalGeneration, LitaProcessor]


def build_model(preset: Preset) -> Built:
    """A LITA as the preset describes it, its encoder frozen, and its processor; DataError if that fails.

    Where there is a ``start``, it goes on from a LITA, or from a language model, a CLIP tower and perhaps a projector;
    else all is random but for the encoder, whose weights come from the file ``data.tower``, from timm where ``vision``
    says ``pretrained``, or from the bundled model.
    """
    try:
        set_seed(preset["data"]["seed"])
        model, processor = _started(preset) if "start" in preset else _from_scratch(preset)
        SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])  # refused now, not after an hour
    except Exception as error:  # a setting can break a library anywhere; the cause stays attached
        raise DataError(f"preset: cannot be built: {shorten(str(error), 400)}") from error
    return model, processor


def shapes_tokenizer() -> PreTrainedTokenizerFast:
    """The bundled model's byte-level BPE without the tokens that LITA added: small, and able to spell any question."""
    stored = read_json(TINY_MODEL / "tokenizer.json", dict, "a tokenizer")
    stored["added_tokens"] = stored["added_tokens"][:2]
    backend = Tokenizer.from_str(json.dumps(stored))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


def _from_scratch(preset: Preset) -> Built:
    encoder = FrameEncoder(**preset["vision"])
    if tower := preset["data"]["tower"]:
        encoder.load_state_dict(load_file(tower))
    elif not preset["vision"].get("pretrained"):
        encoder.load_state_dict(Localizer.load().model.model.vision.state_dict())
    set_seed(preset["data"]["seed"])  # whatever the encoder drew
    tokenizer, transform = shapes_tokenizer(), preset["transform"]
    processor = LitaProcessor(tokenizer, transform=transform, grid=encoder.grid, **_shared(preset))
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "bos_token_id": None, **ids, **preset["lm"]}
    ids |= {"time_token_ids": processor.tt.time_token_ids, "video_token_id": processor.video_token_id}
    parts = {"text_config": text, "vision": preset["vision"], "transform": transform, **preset["model"]}
    model = LitaForConditionalGeneration(LitaConfig(**parts, **ids))
    model.model.vision.load_state_dict(encoder.state_dict())
    return model, processor


def _started(preset: Preset) -> Built:
    start, offline = preset["start"], {"local_files_only": True}
    if start["lita"]:
        folder = find_folder(start["lita"])
        model = load_weights(LitaForConditionalGeneration, folder, dtype=start["dtype"])
        processor = LitaProcessor.from_pretrained(folder, **offline)
    else:
        folder, clip = find_folder(start["lm"]), start["clip"]
        lm = load_weights(AutoModelForCausalLM, folder, dtype=start["dtype"])
        encoder, transform = read_eyes(clip if timm.is_model(clip) else find_folder(clip))
        seen = {"transform": asdict(transform), "grid": encoder.grid, "system": VICUNA}
        processor = LitaProcessor(AutoTokenizer.from_pretrained(folder, **offline), **seen, **_shared(preset))
        ids = list(processor.tt.time_token_ids)
        embeddings.resize(lm, ids)
        embeddings.init_rows(lm, ids)
        parts = {"text_config": lm.config, "vision": encoder.arguments, **preset["model"]}
        config = LitaConfig(**parts, time_token_ids=ids, video_token_id=processor.video_token_id)
        model = LitaForConditionalGeneration.of(config, lm, encoder)
    if start["projector"]:
        model.model.projector.load_state_dict(read_projector(start["projector"]))
    if lora := start["lora"]:
        rows = embeddings.peft_kwargs(model.model.lm, processor.tt.time_token_ids)
        model.model.lm = get_peft_model(model.model.lm, LoraConfig(task_type="CAUSAL_LM", **rows, **lora))
    return model, processor


def _shared(preset: Preset) -> dict[str, Any]:
    return {name: preset["model"][name] for name in ("num_frames", "num_time_tokens", "codec", "pooler")}
