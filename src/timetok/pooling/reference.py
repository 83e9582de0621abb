"""Plans carried out in PyTorch: the formula every other backend is held to, itself fast; whole videos or pieces.

Shapes: b batch, t frames, h w patch grid, e width, g groups of frames, r c rows and columns of tokens, n tokens.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, interpolate, max_pool2d

from timetok.errors import ArgumentError
from timetok.pooling.plan import Path, PoolingPlan

_SMALL = 1 << 15  # numbers; below, calls cost more than memory


def pool(grid: Tensor, plan: PoolingPlan, separators: Mapping[str, Tensor]) -> Tensor:
    """``[b t h w e]`` → ``[b n e]``: see `timetok.pooling.pool`."""
    trained = grid.requires_grad and torch.is_grad_enabled() and grid.numel() and not torch.compiler.is_compiling()
    if trained and not plan.by_frame and all(path.plain for path in plan.paths):
        return _Means.apply(grid, plan)  # type: ignore[no-any-return]
    parts: list[list[Tensor]] = []
    for path in plan.paths:
        cells = [over_space(over_time(frames, path), path) for frames in frames_of(grid, path)]
        parts.append([separated(torch.cat(cells, 1), path, separators)] if path.separators else cells)
    tokens = torch.cat([cells.flatten(1, -2) for part in parts for cells in part], 1)
    if plan.by_frame:
        frames = [torch.tensor([group[0] for group in path.groups(grid.shape[1])]) for path in plan.paths]
        sizes = [part[0].flatten(2, -2).shape[2] for part in parts]
        turns = torch.cat([each.repeat_interleave(size) for each, size in zip(frames, sizes, strict=True)])
        return tokens[:, turns.argsort(stable=True).to(grid.device)]
    return tokens


def frames_of(grid: Tensor, path: Path) -> list[Tensor]:
    """``[b t h w e]`` → ``[b k h w e]``, in parts: the frames that a path sees, in one graph for all t."""
    if path.frames == "all":
        return [grid]
    if path.frames == "every":
        return [grid[:, :: path.num]]
    if path.frames == "others":
        k = torch.arange(grid.shape[1] - -(-grid.shape[1] // path.num), device=grid.device)
        return [grid.index_select(1, k + k // max(path.num - 1, 1) + 1)]
    few = [grid.narrow(1, k, 1) for k in path.frame_indices(grid.shape[1])]
    large = path.window[0] == 1 and all(frame.numel() >= _SMALL for frame in few)  # a copy would cost more than calls
    return few if large else [torch.cat(few, 1)]


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
        return _mean_of_rows(frames.flatten(2, 3)).unsqueeze(2)
    height, width = frames.shape[2:4]
    rows, columns = map(len, path.intervals((height, width)))
    window = path.window[1] or height, path.window[2] or width
    images = frames.flatten(0, 1).permute(0, 3, 1, 2)
    if path.reduction == "bilinear":
        cells = interpolate(images, (rows, columns), mode="bilinear", align_corners=False)
    elif path.cells or path.partial == "adaptive":
        cells = (adaptive_max_pool2d if path.reduction == "max" else adaptive_avg_pool2d)(images, (rows, columns))
    elif path.reduction == "max":
        cells = max_pool2d(images, window, ceil_mode=path.partial == "ceil")
    else:
        cells = avg_pool2d(images, window, ceil_mode=path.partial == "ceil", count_include_pad=False)
    return cells.permute(0, 2, 3, 1).reshape(*frames.shape[:2], rows, columns, frames.shape[4])


def separated(tokens: Tensor, path: Path, separators: Mapping[str, Tensor]) -> Tensor:
    """``[b g r c e]`` → ``[b g n e]``; what stands around a whole path makes it one group."""
    vectors = {place: separators[name].to(tokens) for place, name in path.separators}
    tokens = _around(tokens, None, vectors.get("row_end")).flatten(2, 3)
    tokens = _around(tokens, vectors.get("frame_start"), vectors.get("frame_end"))
    if {"start", "end"} & vectors.keys():
        tokens = _around(tokens.flatten(1, 2).unsqueeze(1), vectors.get("start"), vectors.get("end"))
    return tokens


def _around(tokens: Tensor, start: Tensor | None, end: Tensor | None) -> Tensor:
    first, last = ([] if vector is None else [vector.expand(*tokens.shape[:-2], 1, -1)] for vector in (start, end))
    return torch.cat([*first, tokens, *last], -2) if first or last else tokens


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
        total: Tensor | None = None
        for path in ctx.plan.paths:
            high, wide = path.window[1] or h, path.window[2] or w
            rows, columns, size, frames = h // high, w // wide, path.window[0] or t, path.frame_indices(t)
            part, gradient = gradient.tensor_split([len(frames) // size * rows * columns], 1)
            cells = part.reshape(b, -1, rows, 1, columns, 1, e) / (high * wide * size)
            if total is None and path.frames == "all" and (rows * high, columns * wide) == (h, w):
                total = cells.expand(b, t, rows, high, columns, wide, e).contiguous().view(ctx.shape)
                continue
            total = part.new_zeros(ctx.shape) if total is None else total
            windows = total[:, :, : rows * high, : columns * wide].unflatten(3, (columns, wide))
            windows = windows.unflatten(2, (rows, high))
            each: Any = [(slice(None), cells)] if path.frames == "all" else zip(frames, cells.unbind(1), strict=True)
            for frame, cell in each:
                windows[:, frame] += cell
        assert total is not None
        return total, None


def _mean_of_rows(rows: Tensor) -> Tensor:
    """``[… p e]`` → ``[… 1 e]``. On a CPU a product with ones reads memory faster than a mean does."""
    known = rows.device.type == "cpu" and rows.dtype != torch.float16  # half sums may overflow
    if not known or torch.compiler.is_compiling() or rows.numel() < _SMALL:
        return rows.mean(-2, keepdim=True)
    return (rows.new_ones(1, rows.shape[-2]) @ rows).div_(rows.shape[-2])


def stream(
    chunks: Iterable[Tensor], plan: PoolingPlan, separators: Mapping[str, Tensor], num_frames: int | None, max_kept: int
) -> Iterator[Tensor]:
    """Tokens ``[n e]``, piece by piece, of chunks ``[t h w e]``: see ``SlowFastPooler.stream``."""
    paths = [_PathStream(path, separators, num_frames, max_kept) for path in plan.paths]
    total = 0
    for total, frame in enumerate(chain.from_iterable(chunks), 1):
        for path in paths:
            path.take(total - 1, frame)
        if not plan.by_frame:  # what comes first need not wait
            yield from (tokens for _, tokens in paths[0].ready)
            paths[0].ready.clear()
    if not total or num_frames not in (None, total):
        raise ArgumentError(f"chunks: expected {num_frames or 'at least 1'} frames in all, got {total}")
    for path in paths:
        path.finish(total)
    pieces = [piece for path in paths for piece in path.ready]
    yield from (tokens for _, tokens in (sorted(pieces, key=lambda piece: piece[0]) if plan.by_frame else pieces))


class _PathStream:
    """One path of a published plan, fed with the frames of a video in order.

    ``ready`` is what was pooled so far: tokens ``[n e]``, and the frame that they belong to.
    """

    def __init__(self, path: Path, separators: Mapping[str, Tensor], num_frames: int | None, max_kept: int) -> None:
        whole = {place: separators[name][None] for place, name in path.separators if place in ("start", "end")}
        inner = tuple(pair for pair in path.separators if pair[0] not in whole)
        self._path, self._separators, self._end = replace(path, separators=inner), separators, whole.get("end")
        self.ready = [(0, whole["start"])] if "start" in whole else []
        self._chooses = path.frames in ("even", "floor")
        known = self._chooses and num_frames is not None
        self._wanted: Sequence[int] = path.frame_indices(num_frames or 0) if known else range(sys.maxsize)
        self._max_kept = sys.maxsize if known else max_kept
        self._kept: dict[int, Tensor] = {}  # tokens that may be chosen
        self._count = 0  # frames of the group that is not complete, of which the sum is kept

    def take(self, number: int, frame: Tensor) -> None:
        """Pool what is complete with a frame ``[h w e]``, given its number."""
        path, self._last = self._path, frame
        if self._chooses:
            if number in self._wanted:
                self._kept[number] = self._tokens(frame)
            if len(self._kept) > self._max_kept:
                self._wanted = self._wanted[::2]
                self._kept = {k: tokens for k, tokens in self._kept.items() if k in self._wanted}
        elif path.frames == "all" or (number % path.num == 0) == (path.frames == "every"):
            if not self._count:
                self._first, self._sum = number, frame
            else:
                self._sum = self._sum.to(torch.promote_types(frame.dtype, torch.float32)) + frame
            self._count += 1
            if self._count == path.window[0]:
                self._pool()

    def finish(self, total: int) -> None:
        """Pool what is complete with the end of the video."""
        if self._chooses:
            self._kept[total - 1] = self._tokens(self._last)
            nearest = [min(self._kept, key=lambda k: abs(k - number)) for number in self._path.frame_indices(total)]
            self.ready += [(number, self._kept[number]) for number in nearest]
        elif self._count:
            self._pool()
        if self._end is not None:
            self.ready.append((total - 1, self._end))

    def _pool(self) -> None:
        mean = (self._sum / self._count).to(self._last.dtype)
        self.ready.append((self._first, self._tokens(mean)))
        self._count = 0

    def _tokens(self, frame: Tensor) -> Tensor:
        return separated(over_space(frame[None, None], self._path), self._path, self._separators)[0, 0]
