"""Plans carried out in PyTorch: the formula every other backend is held to, itself fast; whole videos or pieces.

Shapes: b batch, t frames, h w patch grid, e width, g groups of frames, r c rows and columns of tokens, n tokens.
"""

import mmap
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import local
from typing import Any, TypeAlias, cast
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from timetok.pooling.plan import Path, PoolingPlan

Vectors: TypeAlias = Mapping[str, Tensor]  # learned separators [e] by name
_SMALL = 1 << 15  # numbers; below, calls cost more than memory
_last = local()  # memory of a gradient, and whether it is still in use
_KEPT = 64  # frames to choose from for each that is spread over a video of unknown length


def pool(grid: Tensor, plan: PoolingPlan, separators: Vectors) -> Tensor:
    """``[b t h w e]`` → ``[b n e]``: see `timetok.pooling.pool`."""
    trained = grid.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if trained and grid.numel() >= _SMALL and not plan.by_frame and all(path.plain for path in plan.paths):
        return _Means.apply(grid, plan)  # type: ignore[no-any-return]
    cells = {path: [over_space(over_time(part, path), path) for part in frames_of(grid, path)] for path in plan.paths}
    return assembled(cells, plan.by_frame, separators, grid.shape[1])


def frames_of(grid: Tensor, path: Path) -> list[Tensor]:
    """``[b t h w e]`` → ``[b k h w e]``, in parts: the frames that a path sees, in one graph for all t."""
    if path.frames == "all":
        return [grid]
    if path.frames == "every":
        return [grid[:, :: path.num]]
    if path.frames == "others":
        k = torch.arange(grid.shape[1] - -(-grid.shape[1] // path.num), device=grid.device)
        return [grid.index_select(1, k + k // max(path.num - 1, 1) + 1)]
    chosen, size = path.frame_indices(grid.shape[1]), grid.numel() // grid.shape[1]
    if path.window[0] == 1 and size >= _SMALL:  # a copy would cost more than calls
        return [grid.narrow(1, k, 1) for k in chosen]
    return [grid.index_select(1, torch.tensor(chosen, device=grid.device))]


def over_time(frames: Tensor, path: Path) -> Tensor:
    """``[b t h w e]`` → ``[b g h w e]``: groups of frames reduced."""
    size = path.window[0] or frames.shape[1]
    if size == 1:
        return frames
    whole = frames.shape[1] // size * size
    groups = [frames[:, :whole].unflatten(1, (-1, size)), frames[:, None, whole:]]
    full = [group for group in groups if group.shape[1] and group.shape[2]]
    if path.reduction == "max":
        return torch.cat([group.amax(2) for group in full], 1)
    return torch.cat([_mean_of_rows(group.flatten(3)).reshape(group[:, :, 0].shape) for group in full], 1)


def over_space(frames: Tensor, path: Path) -> Tensor:
    """``[b g h w e]`` → ``[b g r c e]``: windows of patches reduced."""
    if path.window[1:] == (1, 1) and not path.cells:
        return frames
    if path.window[1:] == (0, 0) and not path.cells and path.reduction == "mean":
        is_small = torch.compiler.is_compiling() or frames.numel() < _SMALL
        return frames.mean((2, 3), keepdim=True) if is_small else _mean_of_rows(frames.flatten(2, 3)).unsqueeze(2)
    (height, width), is_max = frames.shape[2:4], path.reduction == "max"
    window = path.window[1] or height, path.window[2] or width
    images, sized = frames.flatten(0, 1).permute(0, 3, 1, 2), path.cells or path.partial == "adaptive"
    if sized or path.reduction == "bilinear" or window[0] > height or window[1] > width:  # which may be refused
        size: Any = [len(each) for each in path.intervals((height, width))]
    if path.reduction == "bilinear":
        cells = functional.interpolate(images, size, mode="bilinear", align_corners=False)
    elif sized:
        cells = (functional.adaptive_max_pool2d if is_max else functional.adaptive_avg_pool2d)(images, size)
    else:
        pool_windows = functional.max_pool2d if is_max else functional.avg_pool2d
        cells = pool_windows(images, window, ceil_mode=path.partial == "ceil")
    return cast(Tensor, cells.permute(0, 2, 3, 1).unflatten(0, frames.shape[:2]))


def assembled(cells: Mapping[Path, list[Tensor]], by_frame: bool, separators: Vectors, num_frames: int) -> Tensor:
    """Cells ``[b g r c e]`` of each path, in parts along g → ``[b n e]``: separated, and in the order of the plan."""
    pieces: list[tuple[tuple[int, ...], Tensor]] = []  # the frames whose turn it is, and tokens
    for path, parts in cells.items():
        if path.separators and parts:
            parts = [separated(torch.cat(parts, 1), path, separators)]
        turns = path.groups(num_frames) if by_frame else [(0,)] * len(parts)
        groups = [group for part in parts for group in part.unbind(1)] if by_frame else parts
        pieces += zip(turns, groups, strict=True)
    return torch.cat([tokens.flatten(1, -2) for _, tokens in sorted(pieces, key=lambda piece: piece[0][0])], 1)


def separated(tokens: Tensor, path: Path, separators: Vectors) -> Tensor:
    """``[b g r c e]`` → ``[b g r c e]`` or ``[b g n e]``; what stands around a whole path makes it one group."""
    vectors: dict[str, Tensor] = {place: separators[name].to(tokens) for place, name in path.separators}
    for axis, before, after in ((3, "", "row_end"), (2, "frame_start", "frame_end"), (1, "start", "end")):
        found = [vectors.get(place) for place in (before, after)]
        first, last = ([] if each is None else [each.expand(*tokens.shape[:axis], 1, -1)] for each in found)
        if first or last:
            tokens = torch.cat([*first, tokens.flatten(axis, -2), *last], axis)
    return tokens if tokens.ndim > 3 else tokens.unsqueeze(1)


class _Means(torch.autograd.Function):
    """Plain means. The gradient is written once, where autograd would write one tensor a path and add them up."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, plan: PoolingPlan) -> Tensor:
        ctx.shape, ctx.plan = grid.shape, plan
        return pool(grid, plan, {})  # as nothing is trained in here

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        b, t, h, w, e = ctx.shape
        total: Any = None
        for path in ctx.plan.paths:
            high, wide = path.window[1] or h, path.window[2] or w
            rows, columns, size, frames = h // high, w // wide, path.window[0] or t, path.frame_indices(t)
            part, gradient = gradient.tensor_split([len(frames) // size * rows * columns], 1)
            cells = part.reshape(b, -1, rows, 1, columns, 1, e) / (high * wide * size)
            if total is None and path.frames == "all" and (rows * high, columns * wide) == (h, w):
                total = _memory(ctx.shape, part)
                total.view(b, t, rows, high, columns, wide, e).copy_(cells.expand(b, t, rows, high, columns, wide, e))
                continue
            total = part.new_zeros(ctx.shape) if total is None else total
            windows = total[:, :, : rows * high, : columns * wide].unflatten(3, (columns, wide))
            windows = windows.unflatten(2, (rows, high))
            each: Any = [(slice(None), cells)] if path.frames == "all" else zip(frames, cells.unbind(1), strict=True)
            for frame, cell in each:
                windows[:, frame] += cell
        return total, None


def _memory(shape: torch.Size, like: Tensor) -> Tensor:
    """Memory for a tensor, on a CPU huge pages, or the last's, if free: to get it anew takes longer than to fill it."""
    size = shape.numel() * like.element_size()
    if type(like) is not Tensor or like.device.type != "cpu" or size < 1 << 24 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_empty(shape)
    memory, used = getattr(_last, "lent", (None, ref(like)))
    if memory is None or len(memory) != size or used() is not None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    lent = memoryview(memory)  # which a tensor holds as long as anything needs it
    _last.lent = memory, ref(lent)
    return torch.frombuffer(lent, dtype=like.dtype).view(shape)


def _mean_of_rows(rows: Tensor) -> Tensor:
    """``[… p e]`` → ``[… 1 e]``. On a CPU bags and products with ones read memory faster than a mean does."""
    known = rows.device.type == "cpu" and rows.dtype != torch.float16  # half sums may overflow
    if not known or torch.compiler.is_compiling() or rows.numel() < _SMALL:
        return rows.mean(-2, keepdim=True)
    if rows.dtype == torch.bfloat16 and rows.is_contiguous() and not (rows.requires_grad and torch.is_grad_enabled()):
        each = torch.arange(rows[..., 0].numel(), device=rows.device)
        means = functional.embedding_bag(each, rows.flatten(0, -2), each[:: rows.shape[-2]], mode="mean")
        return means.view(*rows.shape[:-2], 1, -1)
    return (rows.new_ones(1, rows.shape[-2]) @ rows).div_(rows.shape[-2])


class PathStream:
    """Cells ``[1 1 r c e]`` of one path of a published plan, from the frames of a video in order."""

    def __init__(self, path: Path, num_frames: int | None) -> None:
        self.path, self._chooses = path, path.frames in ("even", "floor")
        known = path.frame_indices(num_frames) if self._chooses and num_frames is not None else None
        self._wanted: Sequence[int] = known or range(sys.maxsize)  # every other is dropped when too many are kept
        self._kept: dict[int, Tensor] = {}  # sums of cells by the first of their frames

    def take(self, number: int, frame: Tensor) -> None:
        """Add a frame ``[h w e]``, given its number, to its group."""
        self._last = frame
        if not (number in self._wanted if self._chooses else self.path.sees(number)):
            return
        first = number - number % (self.path.window[0] or sys.maxsize)
        cells = over_space(frame[None, None], self.path)
        if first in self._kept:
            cells = self._kept[first].to(torch.promote_types(cells.dtype, torch.float32)) + cells
        self._kept[first] = cells
        if self._chooses and len(self._kept) > _KEPT * self.path.num:
            self._wanted = self._wanted[::2]
            self._kept = {first: cells for first, cells in self._kept.items() if first in self._wanted}

    def cells(self, num_frames: int) -> list[Tensor]:
        """Means of all groups, once the video has ended; of frames that were not kept those of the nearest."""
        if self._chooses:
            self._kept[num_frames - 1] = over_space(self._last[None, None], self.path)
        means = []
        for frames in self.path.groups(num_frames):
            nearest = frames[0] if frames[0] in self._kept else min(self._kept, key=lambda kept: abs(kept - frames[0]))
            means.append((self._kept[nearest] / len(frames)).to(self._last.dtype))
        return means
