"""LITA's layout in Triton: every byte of the features is read once, every byte of their gradient written once.

A program has one frame, or a part of its rows, and a block of channels. It walks over rows of windows: their means are
slow tokens if the frame is a slow one, and all their sums together its fast token. Others count in the fast alone.

Shapes: b batch, t frames, h w patch grid, e width, n tokens: t, then those of the slow frames.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = not isinstance(tl.sum, triton.JITFunction)  # runs without a GPU; decided when Triton was imported


@triton.jit
def _slots(frame, num_frames, num_slow: tl.constexpr):
    """The places ``[first, stop)`` of a frame among the slow frames, which stand in order."""
    first, stop = 0, 0
    steps: tl.constexpr = num_slow - 1 if num_slow > 1 else 1
    for k in range(num_slow):
        shown, rest = k * (num_frames - 1) // steps, k * (num_frames - 1) % steps
        shown += ((2 * rest > steps) | ((2 * rest == steps) & (shown % 2 == 1))).to(tl.int32)
        first += (shown < frame).to(tl.int32)
        stop += (shown <= frame).to(tl.int32)
    return first, stop


@triton.jit
def _forward(
    grid, tokens, sums, num_frames, height, width, channels, stride_b, stride_t, stride_h, stride_w, stride_e,
    num_slow: tl.constexpr, high: tl.constexpr, wide: tl.constexpr, cells: tl.constexpr,
    block: tl.constexpr, real: tl.constexpr, splits: tl.constexpr,
):  # fmt: skip
    """See ``slow_fast``; with ``splits`` > 1, ``sums`` ``[b t splits e]`` gets what is still to be added up."""
    rows, columns, blocks = height // high, width // wide, tl.cdiv(channels, block)
    program = tl.program_id(0).to(tl.int64)
    channel = (program % blocks) * block + tl.arange(0, block)[None]
    split, image = program // blocks % splits, program // blocks // splits
    video, frame = image // num_frames, image % num_frames
    first, stop = _slots(frame, num_frames, num_slow)
    column = tl.arange(0, cells).to(tl.int64)[:, None]
    grid += video * stride_b + frame * stride_t + channel * stride_e
    tokens += video * (num_frames + num_slow * rows * columns) * channels + channel

    total = tl.zeros((cells, block), real)
    each = tl.cdiv(tl.cdiv(height, high), splits)
    for row in range(split * each, tl.minimum(split * each + each, tl.cdiv(height, high))):
        cell = tl.zeros((cells, block), real)
        for i in tl.static_range(high):
            for j in tl.static_range(wide):
                y, x = row * high + i, column * wide + j
                seen = (x < tl.where(y < height, width, 0)) & (channel < channels)
                cell += tl.load(grid + y * stride_h + x * stride_w, seen, 0.0, eviction_policy="evict_first").to(real)
        total += cell
        if row < rows:
            for slot in range(first, stop):
                place = num_frames + (slot * rows + row) * columns + column
                tl.store(tokens + place * channels, cell / (high * wide), (column < columns) & (channel < channels))
    fast = tl.sum(total, 0)[None]
    if splits == 1:
        tl.store(tokens + frame * channels, fast / (height * width), channel < channels)
    else:
        tl.store(sums + (image * splits + split) * channels + channel, fast, channel < channels)


@triton.jit
def _backward(
    gradient, out, num_frames, height, width, channels,
    num_slow: tl.constexpr, high: tl.constexpr, wide: tl.constexpr, cells: tl.constexpr,
    block: tl.constexpr, real: tl.constexpr,
):  # fmt: skip
    """See ``slow_fast_backward``; a program has one row of windows."""
    rows, columns, blocks = height // high, width // wide, tl.cdiv(channels, block)
    program = tl.program_id(0).to(tl.int64)
    channel = (program % blocks) * block + tl.arange(0, block)[None]
    row, image = program // blocks % tl.cdiv(height, high), program // blocks // tl.cdiv(height, high)
    video, frame = image // num_frames, image % num_frames
    first, stop = _slots(frame, num_frames, num_slow)
    column = tl.arange(0, cells).to(tl.int64)[:, None]
    gradient += video * (num_frames + num_slow * rows * columns) * channels + channel
    out += image * height * width * channels + channel

    fast = tl.load(gradient + frame * channels, channel < channels, 0.0).to(real) / (height * width)
    patch = tl.broadcast_to(fast, (cells, block))
    if row < rows:
        for slot in range(first, stop):
            place = num_frames + (slot * rows + row) * columns + column
            cell = tl.load(gradient + place * channels, (column < columns) & (channel < channels), 0.0)
            patch += cell.to(real) / (high * wide)
    for i in tl.static_range(high):
        for j in tl.static_range(wide):
            y, x = row * high + i, column * wide + j
            inside = (x < tl.where(y < height, width, 0)) & (channel < channels)
            tl.store(out + (y * width + x) * channels, patch, inside)


@torch.library.custom_op("timetok::slow_fast", mutates_args=())
def slow_fast(grid: Tensor, num_slow: int, high: int, wide: int) -> Tensor:
    """``[b t h w e]`` of any strides → ``[b n e]``: means of all frames, then of ``high x wide`` windows of slow ones.

    ``num_slow`` frames, 0 for none, stand at ``round(linspace(0, t - 1, num_slow))``.
    """
    tokens = _tokens(grid, num_slow, high, wide)
    b, t, h, w, e = grid.shape
    if tokens.numel():
        layout, blocks = _layout(grid, num_slow, high, wide)
        splits = min(triton.cdiv(_processors(grid.device), b * t * blocks), triton.cdiv(h, high))
        sums = grid.new_empty(b, t, splits, e, dtype=torch.promote_types(grid.dtype, torch.float32))
        _forward[(b * t * splits * blocks,)](grid, tokens, sums, t, h, w, e, *grid.stride(), **layout, splits=splits)
        if splits > 1:
            tokens[:, :t] = sums.sum(2) / (h * w)
    return tokens


@slow_fast.register_fake
def _tokens(grid: Tensor, num_slow: int, high: int, wide: int) -> Tensor:
    b, t, h, w, e = grid.shape
    return grid.new_empty(b, t + num_slow * (h // high) * (w // wide), e)


@torch.library.custom_op("timetok::slow_fast_backward", mutates_args=())
def slow_fast_backward(gradient: Tensor, shape: list[int], num_slow: int, high: int, wide: int) -> Tensor:
    """Gradient ``[b n e]`` of the tokens → ``[b t h w e]``, that of features of ``shape``."""
    out = gradient.new_empty(shape)
    b, t, h, w, e = shape
    if out.numel():
        layout, blocks = _layout(out, num_slow, high, wide)
        programs = (b * t * triton.cdiv(h, high) * blocks,)
        _backward[programs](gradient.contiguous(), out, t, h, w, e, **layout)  # an expanded gradient has strides of 0
    return out


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grid, *ctx.layout = inputs
    ctx.shape = grid.shape


def _of_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return slow_fast_backward(gradient, list(ctx.shape), *ctx.layout), None, None, None


slow_fast_backward.register_fake(lambda gradient, shape, *_: gradient.new_empty(shape))
slow_fast.register_autograd(_of_gradient, setup_context=_remember)


def _layout(grid: Tensor, num_slow: int, high: int, wide: int) -> tuple[dict[str, Any], int]:
    cells = triton.next_power_of_2(triton.cdiv(grid.shape[3], wide))
    # 8 cells of 128 bfloat16 are 16 bytes a thread of four warps, and a window's loads are in flight together
    block = min(triton.next_power_of_2(grid.shape[4]), max(1024 // cells, 16))
    real = tl.float64 if grid.dtype == torch.float64 else tl.float32
    layout = {"num_slow": num_slow, "high": high, "wide": wide, "cells": cells, "block": block, "real": real}
    return layout | {"enable_fp_fusion": False}, triton.cdiv(grid.shape[4], block)  # Triton 3.9 warns where nobody says


def _processors(device: torch.device) -> int:
    return 16 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count
