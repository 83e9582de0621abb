"""LITA's recipe: the model that a preset describes, and the data sets that it learns from.

A preset may name a module of its own as its ``code``, in which any of these public names stands for the one here,
``TASKS`` adds to it, and ``optimizer(model, arguments, stage)`` gives a stage its own.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, cast

import timm
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from timetok import embeddings
from timetok.adapter.hooks import store_once
from timetok.errors import DataError, raised_as
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor
from timetok.lita.answer import find_folder, load_weights
from timetok.lita.convert import VICUNA, read_eyes, read_projector
from timetok.recipes.cache import FeatureCache, weights_digest
from timetok.recipes.records import Record, read_records
from timetok.recipes.tasks import TASKS as TASKS, Sources, Videos, pixels_of

Preset: TypeAlias = Mapping[str, Any]
CARD = Path(__file__).with_name("card.md")  # what is told of a trained model, for ``str.format``


def build_model(preset: Preset, *, weights: bool = True) -> tuple[LitaForConditionalGeneration, LitaProcessor]:
    """A LITA of a language model (on the meta device without ``weights``), CLIP's tower and perhaps a projector."""
    start = preset["start"]
    folder, eyes = find_folder(start["lm"]), start["clip"]
    encoder, transform = read_eyes(eyes if timm.is_model(eyes) else find_folder(eyes))
    told: Any = {name: preset["model"][name] for name in ("num_frames", "num_time_tokens", "codec", "pooler")}
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    processor = LitaProcessor(tokenizer, transform=asdict(transform), grid=encoder.grid, system=VICUNA, **told)
    ids = list(processor.tt.time_token_ids)
    if weights:
        lm = load_weights(AutoModelForCausalLM, folder, dtype=start["dtype"], use_safetensors=None)  # or pickles
        embeddings.resize(lm, ids)
        embeddings.init_rows(lm, ids)
    else:
        text = AutoConfig.from_pretrained(folder, local_files_only=True)
        text.vocab_size = max(text.vocab_size, max(ids, default=0) + 1)
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(text, dtype=start["dtype"])
    told = {"time_token_ids": ids, "video_token_id": processor.video_token_id, **preset["model"]}
    config = LitaConfig(text_config=lm.config, vision=encoder.arguments, **told)
    model = LitaForConditionalGeneration.of(config, lm, encoder)
    if start["projector"]:
        model.model.projector.load_state_dict(read_projector(start["projector"]))
    if lora := start["lora"]:
        from peft import LoraConfig, get_peft_model  # an extra, `train`

        rows = embeddings.peft_kwargs(model.model.lm, processor.tt.time_token_ids)
        model.model.lm = get_peft_model(model.model.lm, LoraConfig(task_type="CAUSAL_LM", **rows, **lora))
        # peft unties its copies in the state alone
        model.register_state_dict_post_hook(store_once)  # type: ignore[no-untyped-call]
    return model, processor


def open_sources(
    preset: Preset, model: LitaForConditionalGeneration, processor: LitaProcessor, folder: Path
) -> Sources:
    """A source for each data set, the same in all stages, from a feature cache where ``data.cached``.

    The census of each set is printed; the cache is filled by all processes together, in ``folder``. DataError where a
    set cannot be read or none of its media is there, rates name another, or the model cannot be trained from a cache.
    """
    cached, inner, state = preset["data"]["cached"], model.model, PartialState()
    if cached and (inner.order != "pool-first" or inner.time_markers or inner.pooler.separators):
        raise DataError("data.cached: expected false for a model that projects first, or with markers or separators")
    records: dict[str, list[Record]] = {}
    for name, arguments in preset["data"]["sets"].items():
        with raised_as(DataError, f"data.sets.{name}", TypeError):
            found = read_records(**arguments)
        state.print(f"[{name}]\n{found}\n")  # what is wrong with it, too
        records[name] = [record for record in found.records if record.media]
    if unknown := {name for stage in preset["stages"] for name in stage["rates"]} - records.keys():
        raise DataError(f"rates: {sorted(unknown)} are none of the sets, which are {[*records]}")
    if lost := [name for name, kept in records.items() if not kept]:
        raise DataError(f"data.sets: no record of {lost} has its media; see their media and bad")
    cache = None
    if cached:
        bf16 = bool(preset["stages"][0]["trainer"].get("bf16"))
        encoder = inner.vision.to(state.device)
        settings = {"encoder": weights_digest(encoder), "arguments": encoder.arguments, "autocast": bf16}
        settings |= {name: getattr(processor, name) for name in ("transform", "pooler", "num_frames")}
        cache = FeatureCache(folder / "features", settings)
        media = {record.media for kept in records.values() for record in kept if record.media}
        part = state.process_index, state.num_processes
        cache.fill(media, lambda path: pooled(model, processor, path, bf16=bf16), part=part)
        state.wait_for_everyone()
    sources = {name: Videos(kept, processor, cache) for name, kept in records.items()}
    return lambda stage: sources


@torch.no_grad()
def pooled(model: LitaForConditionalGeneration, processor: LitaProcessor, media: Path, *, bf16: bool = False) -> Tensor:
    """Pooled features ``[n e]`` of a video or an image, with the bits that training on its pixels gives."""
    inner = model.model
    pixels = pixels_of(media, processor).unsqueeze(0)
    with torch.autocast(next(inner.vision.parameters()).device.type, torch.bfloat16, enabled=bf16):
        return cast(Tensor, inner.pooler(inner.features(pixels))[0])
