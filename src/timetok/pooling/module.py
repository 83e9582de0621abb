"""The pooler as a module, and its PyTorch formula.

Shapes: b batch, t frames, p patches, h w patch grid, e vision width, n visual tokens.
"""

from dataclasses import asdict
from math import isqrt
from typing import Any, Self

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from timetok.errors import ArgumentError
from timetok.pooling.plan import SlowFastPlan

_PRESETS: dict[str, dict[str, Any]] = {
    "lita": {},
    "lita-temporal-spatial-pool": {},
    "lita-temporal": {"num_slow_frames": 0},
    "lita-spatial-pool": {"fast": False},
}


class SlowFastPooler(nn.Module):
    """SlowFast pooling of patch features, as a ``SlowFastPlan`` of the same arguments lays it out. No weights.

    LITA's published layout is the default.

    Attributes:
        plan: The same layout in integers.

    Raises:
        ArgumentError: As ``SlowFastPlan``.

    Source: arXiv 2403.19046 §3.3: 100 + 256 tokens from 100 frames of 16 x 16 patches.

    >>> pooler = SlowFastPooler()
    >>> pooler.num_tokens(num_frames=100, grid=(16, 16))
    356
    >>> pooler(torch.randn(2, 100, 256, 8)).shape
    torch.Size([2, 356, 8])
    """

    def __init__(self, *, fast: bool = True, num_slow_frames: int = 4, slow_pool: int = 2) -> None:
        super().__init__()
        self.plan = SlowFastPlan(fast=fast, num_slow_frames=num_slow_frames, slow_pool=slow_pool)

    @classmethod
    def preset(cls, name: str, *, dim: int | None = None) -> Self:
        """A published layout by name.

        Args:
            name: ``lita`` (= ``lita-temporal-spatial-pool``), ``lita-temporal`` (fast tokens only) or
                ``lita-spatial-pool`` (slow tokens only).
            dim: Width of learned separators; none of these layouts has any.

        Raises:
            ArgumentError: The name is not known, or ``dim`` is given to a layout without separators.
        """
        if name not in _PRESETS:
            raise ArgumentError(f"name: expected one of {', '.join(_PRESETS)}, got {name!r}")
        if dim is not None:
            raise ArgumentError(f"dim: preset {name!r} has no learned separators, so it takes none; got {dim}")
        return cls(**_PRESETS[name])

    def num_tokens(self, *, num_frames: int, grid: tuple[int, int]) -> int:
        """Number of visual tokens that come out of ``num_frames`` frames of ``grid`` patches.

        Raises:
            ArgumentError: ``num_frames`` is below 1, or the grid is too small for the slow path.
        """
        return len(self.plan.token_frames(num_frames, grid))

    def forward(self, features: Tensor) -> Tensor:
        """Pool.

        Args:
            features: ``[b t p e]`` with a square patch grid, or ``[b t h w e]``.

        Returns:
            ``[b n e]`` in the dtype of the input: the fast tokens in order of time, then the slow
            tokens in order t h w.

        Raises:
            ArgumentError: As ``as_grid``, or the grid is too small for the slow path.
        """
        grid, plan = as_grid(features), self.plan
        tokens = [reduce(grid, "b t h w e -> b t e", "mean")] if plan.fast else []
        if plan.num_slow_frames:
            plan.slow_grid((grid.shape[2], grid.shape[3]))  # refuses a grid that is too small
            frames = rearrange(grid[:, plan.slow_frame_indices(grid.shape[1])], "b t h w e -> (b t) e h w")
            slow = avg_pool2d(frames, plan.slow_pool)
            tokens.append(rearrange(slow, "(b t) e h w -> b (t h w) e", t=plan.num_slow_frames))
        return torch.cat(tokens, dim=1)

    def to_dict(self) -> dict[str, Any]:
        """The arguments that build this pooler again."""
        return asdict(self.plan)

    def extra_repr(self) -> str:
        """The layout, for ``print(module)``."""
        return ", ".join(f"{name}={value}" for name, value in self.to_dict().items())


def as_grid(features: Tensor) -> Tensor:
    """``[b t p e]`` or ``[b t h w e]`` → ``[b t h w e]``.

    Raises:
        ArgumentError: Wrong number of axes, no frame, no patch, or p is not a square number.
    """
    shape = list(features.shape)
    if features.ndim not in (4, 5):
        raise ArgumentError(f"features: expected [b t p e] or [b t h w e], got {shape}")
    if 0 in shape[1:-1]:
        raise ArgumentError(f"features: expected at least one frame and one patch, got {shape}")
    if features.ndim == 5:
        return features
    side = isqrt(shape[2])
    if side * side != shape[2]:
        raise ArgumentError(f"features: {shape[2]} patches fill no square grid; pass [b t h w e], got {shape}")
    return rearrange(features, "b t (h w) e -> b t h w e", h=side)
