"""The pooler as a module. Shapes: b batch, t frames, p patches, h w patch grid, e vision width, n visual tokens."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from timetok.errors import ArgumentError
from timetok.pooling.backends import Wanted, choose, pool
from timetok.pooling.plan import plan_of
from timetok.pooling.reference import stream


class SlowFastPooler(nn.Module):
    """SlowFast pooling of patch features; LITA's published layout is the default.

    Args:
        fast: As in `slow_fast`, like the next two.
        num_slow_frames: Frames seen in detail.
        slow_pool: Side of the square that becomes one slow token.
        preset: A published layout instead, by its name in `PRESETS`.
        dim: Width of the learned separators, for the layouts that have some. They stand between tokens of the language
            model, so such a pooler comes after the projector and ``dim`` is the model's width.
        backend: As in `pool`. ArgumentError is raised where it cannot carry out this layout anywhere, where there is no
            such layout, or ``dim`` is given to one without separators or missing for one with.

    Attributes:
        plan: The layout in integers.

    Source: arXiv 2403.19046 §3.3: 100 + 256 tokens from 100 frames of 16 x 16 patches.

    >>> pooler = SlowFastPooler()
    >>> pooler.num_tokens(num_frames=100, grid=(16, 16))
    356
    >>> pooler(torch.randn(2, 100, 256, 8)).shape
    torch.Size([2, 356, 8])
    """

    def __init__(
        self,
        *,
        fast: bool = True,
        num_slow_frames: int = 4,
        slow_pool: int = 2,
        preset: str | None = None,
        dim: int | None = None,
        backend: Wanted = "auto",
    ) -> None:
        super().__init__()
        slow: dict[str, Any] = {"fast": fast, "num_slow_frames": num_slow_frames, "slow_pool": slow_pool}
        layout = slow if preset is None else {"preset": preset}
        self.plan = plan_of(**layout)
        self._settings = layout if dim is None else {**layout, "dim": dim}
        choose(self.plan, "cuda", backend)  # what cannot work anywhere is said now
        self.backend: Wanted = backend
        names = self.plan.separators
        if bool(names) != (dim is not None):
            wanted = f"the width of the language model, for {', '.join(names)}" if names else "None: none are learned"
            raise ArgumentError(f"dim: expected {wanted}, got {dim!r}")
        vectors = {name: torch.randn(dim or 0) * (dim or 1) ** -0.5 for name in names}
        self.separators: Any = nn.ParameterDict(vectors) if names else None

    @classmethod
    def preset(cls, name: str, *, dim: int | None = None) -> Self:
        """A published layout by its name in `PRESETS`; see the class."""
        return cls(preset=name, dim=dim)

    def num_tokens(self, *, num_frames: int, grid: tuple[int, int]) -> int:
        """Number of visual tokens that come out of ``num_frames`` frames of ``grid`` patches: see `PoolingPlan`."""
        return self.plan.num_tokens(num_frames, grid)

    def forward(
        self, features: Tensor | Sequence[Tensor], num_frames: Sequence[int] | None = None
    ) -> Tensor | list[Tensor]:
        """Pool to ``[b n e]`` in the dtype of the input, or to ``[n e]`` for each video of a list or of a padded batch.

        Args:
            features: ``[b t p e]`` with a square patch grid, or ``[b t h w e]``, no smaller than a window; a list of
                such without b where videos differ in length. Else ArgumentError is raised.
            num_frames: Frames of each video in a padded batch; the others are not looked at.
        """
        if not isinstance(features, Tensor):
            return [self.forward(video.unsqueeze(0))[0] for video in features]
        if num_frames is not None:
            if len(num_frames) != len(features) or not all(0 < n <= features.shape[1] for n in num_frames):
                expected = f"{len(features)} numbers from 1 to {features.shape[1]}"
                raise ArgumentError(f"num_frames: expected {expected}, got {list(num_frames)}")
            return self.forward([video[:n] for video, n in zip(features, num_frames, strict=True)])
        return pool(as_grid(features), self.plan, self.separators, backend=self.backend)

    def stream(
        self, chunks: Iterable[Tensor], *, num_frames: int | None = None, max_kept: int = 256
    ) -> Iterator[Tensor]:
        """Pool a video that comes in pieces; ``torch.cat(list(...))`` is what ``forward`` gives of the whole.

        Args:
            chunks: Frames ``[p e]`` or runs of them, ``[t p e]`` or ``[t h w e]``, in order.
            num_frames: Frames in all, at least 1, else ArgumentError is raised; None if nobody knows.
            max_kept: Where nobody knows, frames spread over the whole video are chosen at its end from at most so many
                that were kept; the first, the last and all of a video of ``max_kept`` frames are.

        Yields:
            Tokens ``[n e]``, as soon as their place in the order comes; the rest is kept as tokens, no frame is.
        """
        grids = (as_grid((chunk[None] if chunk.ndim == 2 else chunk)[None])[0] for chunk in chunks)
        return stream(grids, self.plan, self.separators or {}, num_frames, max_kept)

    def to_dict(self) -> dict[str, Any]:
        """The arguments that build this pooler again."""
        return dict(self._settings)

    def extra_repr(self) -> str:
        """The layout, for ``print(module)``."""
        return ", ".join(f"{name}={value}" for name, value in self.to_dict().items())


def as_grid(features: Tensor) -> Tensor:
    """``[b t p e]``, p square, or ``[b t h w e]`` → ``[b t h w e]``; ArgumentError if it is neither, or empty."""
    shape = list(features.shape)
    if features.ndim not in (4, 5) or not features.is_floating_point():
        raise ArgumentError(f"features: expected floats [b t p e] or [b t h w e], got {features.dtype} {shape}")
    if 0 in shape[1:-1]:
        raise ArgumentError(f"features: expected at least one frame and one patch, got {shape}")
    if features.ndim == 5:
        return features
    side = round(shape[2] ** 0.5)
    if side * side != shape[2]:
        raise ArgumentError(f"features: {shape[2]} patches fill no square grid; pass [b t h w e], got {shape}")
    return rearrange(features, "b t (h w) e -> b t h w e", h=side)
