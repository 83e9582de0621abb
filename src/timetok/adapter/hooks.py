"""What is done to a language model from outside. Shapes: b batch, d language width, n visual tokens, s sequence."""

import copy
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from inspect import signature
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer

from timetok.attention import FrameMask, frame_mask, temporal_position_ids
from timetok.errors import ArgumentError, SpliceError
from timetok.pooling import as_grid

_IDS = "input_ids"  # how the names of parameters end that take ids, throughout transformers
_IN_ORDER = {"conv", "hybrid", "hybrid_sliding", "linear_attention"}  # layers that read token after token
_STEPWISE = {"jamba", "prophetnet", "recurrent_gemma", "reformer", "zamba"}  # go on from a cache by single tokens
_COUNTS_SLOTS = {"git", "moss_transcribe_diarize"}  # their positions do not come from the mask
_signature = cache(signature)


@contextmanager
def splice(lm: PreTrainedModel, rows: Sequence[Tensor], video_token_id: int) -> Iterator[None]:
    """While the context lasts, placeholder ids in the LM's input become ``rows``, ``[n d]`` visual tokens a prompt.

    The placeholder needs no row in the embedding: it is swapped for id 0 before the look-up, there and in whatever
    else inside the LM is handed ids (per-layer embeddings, hashes of ids, routing by id). The hook sits on what
    ``get_input_embeddings()`` returns now, because peft may have replaced that module since the last call.
    Where generation repeats prompts, ``rows`` are repeated, too; steps without placeholders pass through. SpliceError
    is raised where placeholders and visual tokens differ in number, or the embedding never saw a placeholder.
    """
    if not any(len(row) for row in rows):
        yield
        return
    masks: list[Tensor] = []
    filled = False
    turned = lm.config.model_type == "xlnet"  # which turns its ids round, to [s b], before it embeds them
    embedding = lm.get_input_embeddings()

    def hide(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        def safe(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor) or not (module is embedding or name.endswith(_IDS)):
                return value
            mask = value == video_token_id
            if module is embedding:
                masks.append(mask)
            return value.masked_fill(mask, 0)

        names = chain(list(_signature(type(module).forward).parameters)[1:], repeat(""))
        return tuple(map(safe, names, args)), {name: safe(name, value) for name, value in kwargs.items()}

    def fill(_: nn.Module, __: tuple[Any, ...], embeds: Tensor) -> Tensor:
        nonlocal filled
        mask = masks.pop()
        if not bool(mask.any()):
            return embeds
        filled = True
        mask, embeds = (mask.T, embeds.transpose(0, 1)) if turned else (mask, embeds)
        # beam search repeats each prompt as often as the next
        repeated = [row for row in rows for _ in range(len(mask) // len(rows))]
        counts, expected = mask.sum(1).tolist(), [len(row) for row in repeated]
        if counts != expected:
            raise SpliceError(f"input_ids: placeholders by row are {counts}, visual tokens by row are {expected}")
        embeds = embeds.masked_scatter(mask.unsqueeze(-1), torch.cat(repeated).to(embeds))
        return embeds.transpose(0, 1) if turned else embeds

    with ExitStack() as hooks:
        hooks.enter_context(embedding.register_forward_hook(fill))
        for module in {embedding, *lm.modules()}:
            takes_ids = any(name.endswith(_IDS) for name in _signature(type(module).forward).parameters)
            # what leads to the embedding hands the placeholders on to it
            if module is embedding or (takes_ids and embedding not in module.modules()):
                hooks.enter_context(module.register_forward_pre_hook(hide, with_kwargs=True))
        yield
    if not filled:
        why = "its input embedding saw no placeholder; pass input_ids, and no cache that already holds them"
        raise SpliceError(f"the video did not reach {type(lm).__name__}: {why}")


def check(lm: Any, rope: Any, kind: FrameMask, length: int = 0) -> None:
    """Raise an ArgumentError, with the reason, where the LM cannot be told such positions or such a mask."""
    config, rotary = lm.config.get_text_config(), any("Rotary" in type(module).__name__ for module in lm.modules())
    if rope is not None and not rotary:
        raise ArgumentError(f"temporal_rope: {type(lm).__name__} has no RoPE that is told positions; pass None")
    backend, in_order = config._attn_implementation, _IN_ORDER & set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None) or length
    reasons = {
        "some of its layers read token after token": lm._is_stateful or in_order,
        "it makes its own": config.model_type == "opt" or not (rotary or lm._supports_sdpa),
        f"its attention is {backend!r}, not 'eager' or 'sdpa'": backend not in ("eager", "sdpa"),
        f"its window of {window} is shorter than {length} tokens": length > window,
    }
    why = next((reason for reason, holds in reasons.items() if holds), "")
    if kind != "causal" and why:
        raise ArgumentError(f"attention: {type(lm).__name__} takes no mask {kind!r}: {why}; pass 'causal'")


@contextmanager
def placed(model: Any, ids: Tensor, mask: Tensor | None, videos: Any, given: Container[str]) -> Iterator[None]:
    """While it lasts, the LM has its positions and mask; ArgumentError as by `check`, or where some are ``given``."""
    lm, rope, kind, length = model.lm, model.temporal_rope, model.attention, ids.shape[1]
    if rope in (None, (1, 0)) and kind == "causal":
        yield
        return
    check(lm, rope, kind, length)
    if "position_ids" in given or "past_key_values" in given:
        raise ArgumentError("position_ids, past_key_values: not with temporal_rope or attention, which make their own")
    frames, valid = _frame_index(model, ids, videos), torch.ones_like(ids) if mask is None else mask

    def place(_: nn.Module, args: Any, call: dict[str, Any]) -> Any:
        cache, repeats = call.get("past_key_values"), len(call["input_ids"]) // len(ids)  # beams repeat rows
        start = 0 if cache is None else int(cache.get_seq_length())
        stop = start + call["input_ids"].shape[1]
        new = (0, max(stop - length, 0))  # which is text
        index = pad(frames, new, value=-1).repeat_interleave(repeats, 0)
        counted = pad(valid, new, value=1).repeat_interleave(repeats, 0)
        if call.get("attention_mask") is None:
            call["attention_mask"] = counted[:, :stop]
        if rope is not None:
            call["position_ids"] = temporal_position_ids(index, counted, a=rope[0], b=rope[1])[:, start:stop]
        if kind != "causal" and start < length:
            layers = getattr(cache, "layers", None) or [None]
            width = getattr(layers[0], "max_cache_len", stop)  # where the cache is static; no chunk ends amid videos
            sees = pad(frame_mask(index, counted, kind)[:, :, start:stop, :stop], (0, width - stop))
            lowest = sees.new_zeros((), dtype=lm.dtype).masked_fill(~sees, torch.finfo(lm.dtype).min)
            call["attention_mask"] = lowest if lm.config.get_text_config()._attn_implementation == "eager" else sees
        return args, call

    with ExitStack() as hooks:
        # peft's forward passes by hooks of the model inside, its generate by its own
        for module in {lm, lm.get_base_model() if hasattr(lm, "get_base_model") else lm}:
            hooks.enter_context(module.register_forward_pre_hook(place, with_kwargs=True))
        yield


def _frame_index(model: Any, ids: Tensor, videos: Any) -> Tensor:
    """Frame of each token ``[b s]``; the first one where a token pools several."""
    index, total, visual = [], 0, ids == model.video_token_id
    for video in videos:
        if not isinstance(video, Tensor) or video.ndim < 3:
            raise ArgumentError("video_features: temporal_rope and attention need features, not an encoded video")
        height, width = as_grid(video.unsqueeze(0)).shape[2:4]
        index += [total + token.frames[0] for token in model.pooler.plan.tokens(len(video), (height, width))]
        total += len(video)
    frames = ids.masked_scatter(visual, torch.tensor(index, dtype=ids.dtype, device=ids.device))
    return (frames - frames.masked_fill(~visual, total).amin(1, keepdim=True)).masked_fill(~visual, -1)  # from 0 a row


def _shared(model: nn.Module) -> dict[str, str]:
    """Names of parameters that stand under an earlier name already, which is given: a tied head."""
    first = {weight: name for name, weight in model.named_parameters()}
    named = model.named_parameters(remove_duplicate=False)
    return {name: first[weight] for name, weight in named if name != first[weight]}


def store_once(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Leave tied weights out under their second name, which safetensors, and so Trainer's checkpoints, refuse."""
    for name in _shared(model) if not prefix else ():
        state.pop(name, None)


def share_again(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Undo `store_once` in what is to be loaded."""
    for name, earlier in _shared(model).items():
        if prefix + earlier in state:
            state.setdefault(prefix + name, state[prefix + earlier])


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """A video as a language model reads it, to be passed wherever features are; made by ``encode_video``.

    ``tokens`` are ``[n d]``; ``prefix_ids``, which hold them, were run into ``cache``: none where it cannot go on.
    """

    tokens: Tensor
    prefix_ids: Tensor
    cache: Any = None


@torch.no_grad()
def remember(model: Any, tokens: Tensor, prefix_ids: Sequence[int]) -> EncodedVideo:
    """Run the beginning of a prompt, which holds one video of ``tokens`` ``[n d]``, through a `VideoAdapter`."""
    ids = torch.tensor([list(prefix_ids)], dtype=torch.long, device=tokens.device)
    encoded = EncodedVideo(tokens, ids[0, :0])
    if not ids.numel():
        return encoded
    once: Any = {"max_new_tokens": 1, "num_beams": 1, "num_return_sequences": 1, "do_sample": False}
    output = model.generate(ids, video_features=[encoded], return_dict_in_generate=True, **once)
    cache: Any = getattr(output, "past_key_values", None)
    attends = any(hasattr(layer, "keys") for layer in getattr(cache, "layers", ()))
    goes_on = attends and model.lm.config.model_type not in _STEPWISE and cache.get_seq_length() == ids.shape[1]
    return EncodedVideo(tokens, ids[0], cache) if goes_on else encoded


@torch.no_grad()
def generate_about(model: Any, video: EncodedVideo, input_ids: Tensor, mask: Tensor, options: Any) -> Any:
    """Prompts ``[b s]`` about one video, continued by a `VideoAdapter`: prompt and new ids, filled up on the right.

    Rows that begin as the encoded prefix go on from a copy of its cache: all together, the padding moved behind the
    prefix; one by one where some begin otherwise, or the model does not leave a hole out of account exactly.
    """
    config = options.get("generation_config") or model.lm.generation_config
    copies = max(options.get(name) or getattr(config, name) or 1 for name in ("num_beams", "num_return_sequences"))
    prefix, known, (count, width) = video.prefix_ids, len(video.prefix_ids), input_ids.shape
    rows = [row[width - num :] for row, num in zip(input_ids, mask.sum(1).tolist(), strict=True)]
    placeholder = model.video_token_id
    begins = [len(row) > known and torch.equal(row[:known], prefix) and placeholder not in row[known:] for row in rows]
    # masked padding amid a row changes nothing where positions come from the mask and no window slides over it
    exact = "position_ids" in signature(model.lm.forward).parameters and model.lm.config.model_type not in _COUNTS_SLOTS
    exact &= all(type(layer) is DynamicLayer for layer in video.cache.layers)
    together = all(begins) and (exact or bool(mask.all()))
    if not any(begins) or (options.get("return_dict_in_generate") and not together):  # which is of one batch
        afresh = [EncodedVideo(video.tokens, prefix[:0])] * count
        return model.generate(input_ids, attention_mask=mask, video_features=afresh, **options)
    if not together:
        new: list[Tensor] = []
        for row in rows:
            new += model.generate(row[None], video_features=[video], **options)[:, len(row) :]
        pad = options.get("pad_token_id", config.pad_token_id) or 0
        repeated = input_ids.repeat_interleave(len(new) // count, 0)
        return torch.cat([repeated, pad_sequence(new, batch_first=True, padding_value=pad)], 1)
    cache = copy.deepcopy(video.cache)
    cache.reorder_cache(input_ids.new_zeros(count * copies))
    hole = (width - mask.sum(1, keepdim=True)) + known
    place = torch.arange(width, device=mask.device)
    seen = ((place < known) | (place >= hole)).to(mask)
    ids = input_ids.masked_fill(place < hole, 0)  # in the cache, or unseen
    output = model.generate(ids, attention_mask=seen, past_key_values=cache, **options)
    found = output if isinstance(output, Tensor) else output.sequences
    found[:, :width] = input_ids.repeat_interleave(len(found) // count, 0)
    return output
