"""Plans carried out in PyTorch: the formula every other backend is held to, itself fast.

Shapes: b batch, t frames, h w patch grid, e width, g groups of frames, r c rows and columns of tokens, n tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, interpolate, max_pool2d

from timetok.pooling.plan import Path, PoolingPlan


def pool(grid: Tensor, plan: PoolingPlan, separators: Mapping[str, Tensor]) -> Tensor:
    """``[b t h w e]`` → ``[b n e]``, in the dtype of the input; sums are taken in float32 or better.

    Args:
        grid: Features.
        plan: The layout.
        separators: The learned vectors ``[e]`` that the plan names.
    """
    if not plan.by_frame and all(map(_is_mean, plan.paths)) and grid.numel() and not torch.compiler.is_compiling():
        tokens: Tensor = _Means.apply(grid, plan)
        return tokens
    parts = [separated(_reduced(grid, path), path, separators) for path in plan.paths]
    tokens = torch.cat([part.flatten(1, 2) for part in parts], 1)
    if plan.by_frame:
        return tokens[:, _turns(plan, grid.shape[1], [part.shape[2] for part in parts], grid.device)]
    return tokens


def frame_indices(path: Path, num_frames: int, device: torch.device) -> Tensor:
    """As ``Path.frame_indices``, in tensor arithmetic, which compiles once for all numbers of frames."""
    k = torch.arange(num_frames if path.frames == "all" else path.num, device=device)
    if path.frames == "all":
        return k
    if path.frames == "even":
        steps = max(path.num - 1, 1)
        whole, rest = k * (num_frames - 1) // steps, k * (num_frames - 1) % steps
        return whole + ((2 * rest > steps) | ((2 * rest == steps) & (whole % 2 == 1))).long()
    if path.frames == "floor":
        return k * num_frames // path.num
    if isinstance(path.frames, tuple):
        return torch.tensor(path.frame_indices(num_frames), device=device)
    every = -(-num_frames // path.num)
    if path.frames == "every":
        return torch.arange(every, device=device) * path.num
    others = torch.arange(num_frames - every, device=device)
    return others + others // max(path.num - 1, 1) + 1


def _reduced(grid: Tensor, path: Path) -> Tensor:
    """``[b g r c e]``."""
    if path.frames == "all":
        return over_space(over_time(grid, path), path)
    # few frames, one by one: a copy of them would cost more than all the rest
    chosen = path.frames in ("even", "floor") or isinstance(path.frames, tuple)
    if chosen and path.window[0] == 1 and not torch.compiler.is_compiling():
        few = [over_space(grid[:, k : k + 1], path) for k in path.frame_indices(grid.shape[1])]
        return torch.cat(few, 1)
    frames = grid.index_select(1, frame_indices(path, grid.shape[1], grid.device))
    return over_space(over_time(frames, path), path)


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
    first, last = (
        [] if vector is None else [vector.expand(*tokens.shape[:2], 1, tokens.shape[3])] for vector in (start, end)
    )
    return torch.cat([*first, tokens, *last], 2) if first or last else tokens


def _turns(plan: PoolingPlan, num_frames: int, sizes: list[int], device: torch.device) -> Tensor:
    """Places of the tokens, given path after path, in the order of their frames."""
    firsts = [[group[0] for group in path.groups(num_frames)] for path in plan.paths]
    keys = [
        torch.tensor(frames, device=device).repeat_interleave(size) for frames, size in zip(firsts, sizes, strict=True)
    ]
    return torch.cat(keys).argsort(stable=True)


def _is_mean(path: Path) -> bool:
    """Whether a path is plain means: of whole frames, of squares of some frames, or over time."""
    return path.plain and (path.window[0] == 1 or (path.frames, path.window) == ("all", (0, 1, 1)))


class _Means(torch.autograd.Function):
    """Plain means. The gradient is written once, where autograd would write one tensor a path and add them up."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, plan: PoolingPlan) -> Tensor:
        ctx.shape, ctx.plan = grid.shape, plan
        batch, _, height, width, _ = grid.shape
        parts = []
        for path in plan.paths:
            if path.window == (1, 0, 0) and path.frames == "all":
                parts.append(_mean_of_rows(grid.flatten(2, 3)).squeeze(2))
            elif path.window[0] == 0:
                parts.append(_mean_of_rows(grid.flatten(2)).reshape(batch, height * width, -1))
            else:
                parts.append(_reduced(grid, path).flatten(1, 3))
        ctx.sizes = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        b, t, h, w, e = ctx.shape
        total: Tensor | None = None
        for path, part in zip(ctx.plan.paths, gradient.split(ctx.sizes, 1), strict=True):
            over_time = path.window[0] == 0
            if path.frames == "all" and (over_time or path.window == (1, 0, 0)):
                share = part.reshape(b, 1, h, w, e) / t if over_time else part.reshape(b, t, 1, 1, e) / (h * w)
                total = share.expand(ctx.shape).contiguous() if total is None else total.add_(share)
                continue
            total = gradient.new_zeros(ctx.shape) if total is None else total
            rows, columns = path.intervals((h, w))
            high, wide = rows[0][1], columns[0][1]
            cells = part.reshape(b, -1, len(rows), len(columns), e) / (high * wide)
            patches = repeat(cells, "b g r c e -> b g (r i) (c j) e", i=high, j=wide)
            seen = total[:, :, : patches.shape[2], : patches.shape[3]]
            seen.index_add_(
                1, frame_indices(path, t, total.device) if path.frames != "all" else torch.arange(t), patches
            )
        assert total is not None
        return total, None


def _mean_of_rows(rows: Tensor) -> Tensor:
    """``[… p e]`` → ``[… 1 e]``. On a CPU a product with ones reads memory faster than a mean does."""
    if rows.device.type != "cpu" or rows.dtype == torch.float16:  # whose sums may overflow
        return rows.mean(-2, keepdim=True)
    return rows.new_ones(1, rows.shape[-2]) @ rows / rows.shape[-2]
