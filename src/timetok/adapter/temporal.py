"""TC-LLaVA's positions and masks on a causal LM, by a hook on its forward; b batch, s sequence."""

from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from math import isfinite
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from timetok.attention import FrameMask, frame_mask, temporal_position_ids
from timetok.errors import ArgumentError
from timetok.pooling import as_grid

_IN_ORDER = {"conv", "hybrid", "hybrid_sliding", "linear_attention"}  # layers that read token after token


def check(lm: Any, rope: Any, kind: FrameMask, length: int = 0) -> None:
    """Raise an ArgumentError, with the reason, where the LM cannot be told such positions or such a mask."""
    config, rotary = lm.config.get_text_config(), any("Rotary" in type(module).__name__ for module in lm.modules())
    if kind not in get_args(FrameMask) or not (rope is None or (len(rope) == 2 and all(map(isfinite, rope)))):
        wanted = f"two finite numbers or None, and one of {', '.join(get_args(FrameMask))}"
        raise ArgumentError(f"temporal_rope, attention: expected {wanted}, got {rope} and {kind!r}")
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
def placed(
    model: Any, ids: Tensor, mask: Tensor | None, features: Any, pixels: Any, given: Container[str]
) -> Iterator[None]:
    """While the context lasts, the LM of a ``VideoLM`` has its positions and mask for ``ids`` ``[b s]`` and the answer.

    ArgumentError is raised as by `check`, and where further arguments, ``given``, contradict.
    """
    lm, rope, kind, length = model.lm, model.temporal_rope, model.attention, ids.shape[1]
    if rope in (None, (1, 0)) and kind == "causal":
        yield
        return
    check(lm, rope, kind, length)
    if "position_ids" in given or "past_key_values" in given:
        raise ArgumentError("position_ids, past_key_values: not with temporal_rope or attention, which make their own")
    frames, valid = _frame_index(model, ids, features, pixels), torch.ones_like(ids) if mask is None else mask

    def place(_: nn.Module, args: Any, call: dict[str, Any]) -> Any:
        cache, repeats = call.get("past_key_values"), len(call["input_ids"]) // len(ids)  # beams repeat rows
        start = 0 if cache is None else int(cache.get_seq_length())
        stop = start + call["input_ids"].shape[1]
        new = (0, max(stop - length, 0))  # which is text
        index, counted = (
            pad(rows, new, value=value).repeat_interleave(repeats, 0) for rows, value in ((frames, -1), (valid, 1))
        )
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


def _frame_index(model: Any, ids: Tensor, features: Any, pixels: Any) -> Tensor:
    """Frame of each token ``[b s]``; the first one where a token pools several."""
    index, total, visual = [], 0, ids == model.video_token_id
    for video in (() if pixels is None else pixels) if features is None else features:
        if not isinstance(video, Tensor) or video.ndim < 3:
            raise ArgumentError("video_features: temporal_rope and attention need features, not an encoded video")
        grid = model.vision.grid if features is None else tuple(as_grid(video.unsqueeze(0)).shape[2:4])
        index += [total + token.frames[0] for token in model.pooler.plan.tokens(len(video), grid)]
        total += len(video)
    frames = ids.masked_scatter(visual, torch.tensor(index, dtype=ids.dtype, device=ids.device))
    first = frames.masked_fill(~visual, total).amin(1, keepdim=True)  # of the row
    return (frames - first).masked_fill(~visual, -1)
