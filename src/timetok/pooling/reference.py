"""Plans carried out in PyTorch: the formula every other backend is held to, itself fast.

Shapes: b batch, t frames, h w patch grid, e width, g groups of frames, r c rows and columns of tokens, n tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, interpolate, max_pool2d

from timetok.pooling.plan import Path, PoolingPlan

_SMALL = 1 << 15  # numbers; below, calls cost more than memory


def pool(grid: Tensor, plan: PoolingPlan, separators: Mapping[str, Tensor]) -> Tensor:
    """``[b t h w e]`` → ``[b n e]``: see `timetok.pooling.pool`."""
    if not plan.by_frame and all(map(_is_mean, plan.paths)) and grid.numel() and not torch.compiler.is_compiling():
        needs_gradient = grid.requires_grad and torch.is_grad_enabled()
        means: Tensor = _Means.apply(grid, plan) if needs_gradient else _means(grid, plan)
        return means
    groups = [over_time(frames_of(grid, path), path) for path in plan.paths]
    parts = [separated(over_space(x, path), path, separators) for x, path in zip(groups, plan.paths, strict=True)]
    tokens = torch.cat([part.flatten(1, 2) for part in parts], 1)
    if plan.by_frame:
        return tokens[:, _turns(plan, grid.shape[1], [part.shape[2] for part in parts], grid.device)]
    return tokens


def frames_of(grid: Tensor, path: Path) -> Tensor:
    """``[b t h w e]`` → ``[b k h w e]``: the frames that a path sees, in one graph for all t."""
    if path.frames == "all":
        return grid
    if path.frames == "every":
        return grid[:, :: path.num]
    if path.frames == "others":
        k = torch.arange(grid.shape[1] - -(-grid.shape[1] // path.num), device=grid.device)
        return grid.index_select(1, k + k // max(path.num - 1, 1) + 1)
    return torch.cat([grid.narrow(1, k, 1) for k in path.frame_indices(grid.shape[1])], 1)


def over_time(frames: Tensor, path: Path) -> Tensor:
    """``[b t h w e]`` → ``[b g h w e]``: groups of frames reduced."""
    size = path.window[0] or frames.shape[1]
    if size == 1:
        return frames
    whole = frames.shape[1] // size * size
    groups = [frames[:, :whole].unflatten(1, (-1, size)), frames[:, None, whole:]]
    full = [group for group in groups if group.shape[1] and group.shape[2]]
    return torch.cat([group.amax(2) if path.reduction == "max" else group.mean(2) for group in full], 1)


def over_space(frames: Tensor, path: Path) -> Tensor:
    """``[b g h w e]`` → ``[b g r c e]``: windows of patches reduced."""
    height, width = frames.shape[2:4]
    rows, columns = map(len, path.intervals((height, width)))
    window = path.window[1] or height, path.window[2] or width
    if (rows, columns) == (height, width):
        return frames
    if not frames.numel():
        return frames.new_zeros(*frames.shape[:2], rows, columns, frames.shape[4])
    if (rows, columns) == (1, 1) and path.reduction != "bilinear" and window == (height, width):
        return frames.amax((2, 3), True) if path.reduction == "max" else frames.mean((2, 3), keepdim=True)
    images = rearrange(frames, "b g h w e -> (b g) e h w")
    if path.reduction == "bilinear":
        cells = interpolate(images, (rows, columns), mode="bilinear", align_corners=False)
    elif path.cells or path.partial == "adaptive":
        cells = (adaptive_max_pool2d if path.reduction == "max" else adaptive_avg_pool2d)(images, (rows, columns))
    elif path.reduction == "max":
        cells = max_pool2d(images, window, ceil_mode=path.partial == "ceil")
    else:
        cells = avg_pool2d(images, window, ceil_mode=path.partial == "ceil", count_include_pad=False)
    return rearrange(cells, "(b g) e r c -> b g r c e", g=frames.shape[1])


def separated(tokens: Tensor, path: Path, separators: Mapping[str, Tensor]) -> Tensor:
    """``[b g r c e]`` → ``[b g n e]``; what stands around a whole path makes it one group."""
    vectors: dict[str, Tensor] = {place: separators[name].to(tokens) for place, name in path.separators}
    if "row_end" in vectors:
        ends = vectors["row_end"].expand(*tokens.shape[:3], 1, -1)
        tokens = torch.cat([tokens, ends], 3)
    tokens = tokens.flatten(2, 3)
    tokens = _around(tokens, vectors.get("frame_start"), vectors.get("frame_end"))
    if {"start", "end"} & vectors.keys():
        tokens = _around(tokens.flatten(1, 2).unsqueeze(1), vectors.get("start"), vectors.get("end"))
    return tokens


def _around(tokens: Tensor, start: Tensor | None, end: Tensor | None) -> Tensor:
    shape = *tokens.shape[:2], 1, tokens.shape[3]
    first, last = ([] if vector is None else [vector.expand(shape)] for vector in (start, end))
    return torch.cat([*first, tokens, *last], 2) if first or last else tokens


def _turns(plan: PoolingPlan, num_frames: int, sizes: list[int], device: torch.device) -> Tensor:
    """Places of the tokens, given path after path, in the order of their frames."""
    firsts = [torch.tensor([group[0] for group in path.groups(num_frames)], device=device) for path in plan.paths]
    keys = [frames.repeat_interleave(size) for frames, size in zip(firsts, sizes, strict=True)]
    return torch.cat(keys).argsort(stable=True)


def _is_mean(path: Path) -> bool:
    """Whether a path is plain means: of whole frames, of windows of some frames, or over time."""
    return path.plain and (path.window[0] == 1 or (path.frames, path.window) == ("all", (0, 1, 1)))


class _Means(torch.autograd.Function):
    """Plain means. The gradient is written once, where autograd would write one tensor a path and add them up."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, plan: PoolingPlan) -> Tensor:
        ctx.shape, ctx.plan = grid.shape, plan
        return _means(grid, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        b, t, h, w, e = ctx.shape
        total: Tensor | None = None
        for path in ctx.plan.paths:
            high, wide = path.window[1] or h, path.window[2] or w
            rows, columns = h // high, w // wide
            frames = None if path.frames == "all" else path.frame_indices(t)
            groups = (t if path.window[0] else 1) if frames is None else len(frames)
            part, gradient = gradient.tensor_split([groups * rows * columns], 1)
            of_one = high * wide * (1 if path.window[0] else t)
            cells = part.reshape(b, groups, rows, 1, columns, 1, e) / of_one
            if total is None and frames is None and (rows * high, columns * wide) == (h, w):
                total = cells.expand(b, t, rows, high, columns, wide, e).contiguous().view(ctx.shape)
                continue
            total = part.new_zeros(ctx.shape) if total is None else total
            windows = total[:, :, : rows * high, : columns * wide].unflatten(3, (columns, wide))
            windows = windows.unflatten(2, (rows, high))
            if frames is None:
                windows += cells
            for k, frame in enumerate(frames or ()):
                windows[:, frame] += cells[:, k]
        assert total is not None
        return total, None


def _means(grid: Tensor, plan: PoolingPlan) -> Tensor:
    b, t, h, w, _ = grid.shape
    parts = []
    for path in plan.paths:
        if path.window == (1, 0, 0) and path.frames == "all":
            parts.append(_mean_of_rows(grid.flatten(2, 3)).squeeze(2))
        elif path.window[0] == 0:
            parts.append(_mean_of_rows(grid.flatten(2)).reshape(b, h * w, -1))
        else:
            path.intervals((h, w))  # refuses what is too small
            window = path.window[1] or h, path.window[2] or w
            few = [grid] if path.frames == "all" else [grid[:, k] for k in path.frame_indices(t)]
            if len(few) > 1 and few[0].numel() < _SMALL:  # one call for all; copying large frames would cost more
                few = [torch.stack(few, 1)]
            for frames in few:
                images = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2)
                parts.append(avg_pool2d(images, window).permute(0, 2, 3, 1).reshape(b, -1, grid.shape[4]))
    return torch.cat(parts, 1)


def _mean_of_rows(rows: Tensor) -> Tensor:
    """``[… p e]`` → ``[… 1 e]``. On a CPU a product with ones reads memory faster than a mean does."""
    if rows.device.type != "cpu" or rows.dtype == torch.float16 or rows.numel() < _SMALL:  # half sums may overflow
        return rows.mean(-2, keepdim=True)
    return (rows.new_ones(1, rows.shape[-2]) @ rows).div_(rows.shape[-2])
