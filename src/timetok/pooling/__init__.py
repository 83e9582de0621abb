"""SlowFast token pooling: few tokens that see every frame, many tokens that see a few frames well.

Shapes: b batch, t frames, p patches, h w patch grid, e vision width, n visual tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Self, TypeAlias, cast

import torch
from torch import Tensor, nn

from timetok.errors import ArgumentError
from timetok.pooling import reference
from timetok.pooling.plan import PRESETS, Path, PoolingPlan, Token, plan_of
from timetok.pooling.reference import Vectors

__all__ = [
    "BACKENDS", "PRESETS", "Backend", "Path", "PoolingPlan", "SlowFastPooler", "Token", "as_grid", "choose", "plan_of",
    "pool",
]  # fmt: skip

Wanted: TypeAlias = Literal["auto", "triton", "torch"]
_HAS_TRITON = find_spec("triton") is not None
_LARGEST = 8  # side of a window in the kernels, which unroll it


class SlowFastPooler(nn.Module):
    """SlowFast pooling of patch features; LITA's published layout is the default.

    With ``fast``, one token a frame stands in front; ``num_slow_frames`` frames are seen in detail, where squares of
    side ``slow_pool`` become one token. ``preset`` is a published layout instead, by its name in `PRESETS`. The learned
    separators that some have stand between tokens of the language model, so such a pooler comes after the projector and
    ``dim`` is the model's width. ``backend`` is as in `pool`. ArgumentError is raised where it cannot carry out this
    layout anywhere, there is no such layout, or ``dim`` is given to one without separators or missing for one with.
    Its ``plan`` is the layout in integers; its ``arguments`` build it again, but for ``backend``.

    Source: arXiv 2403.19046 §3.3: 100 + 256 tokens from 100 frames of 16 x 16 patches.

    >>> pooler = SlowFastPooler()
    >>> pooler.num_tokens(num_frames=100, grid=(16, 16))
    356
    >>> pooler(torch.randn(2, 100, 256, 8)).shape
    torch.Size([2, 356, 8])
    """

    def __init__(
        self, *, fast: bool = True, num_slow_frames: int = 4, slow_pool: int = 2, preset: str | None = None,
        dim: int | None = None, backend: Wanted = "auto",
    ) -> None:  # fmt: skip
        super().__init__()
        slow: dict[str, Any] = {"fast": fast, "num_slow_frames": num_slow_frames, "slow_pool": slow_pool}
        self.arguments = (slow if preset is None else {"preset": preset}) | ({} if dim is None else {"dim": dim})
        self.plan = plan_of(**self.arguments)
        choose(self.plan, "cuda", backend)  # what cannot work anywhere is said now
        self.backend: Wanted = backend
        names = self.plan.separators
        if bool(names) != (dim is not None):
            wanted = f"the width of the language model, for {', '.join(names)}" if names else "None: none are learned"
            raise ArgumentError(f"dim: expected {wanted}, got {dim!r}")
        self.separators: Any = nn.ParameterDict({name: torch.randn(dim or 0) * (dim or 1) ** -0.5 for name in names})

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

        ``features`` are ``[b t p e]`` with a square patch grid, or ``[b t h w e]``, no smaller than a window; a list of
        such without b where videos differ in length. ``num_frames`` are those of each video in a padded batch, of which
        the others are not looked at. What is none of these raises ArgumentError.
        """
        if not isinstance(features, Tensor):
            return [self.forward(video.unsqueeze(0))[0] for video in features]
        if num_frames is not None:
            if len(num_frames) != len(features) or not all(0 < n <= features.shape[1] for n in num_frames):
                expected = f"{len(features)} numbers from 1 to {features.shape[1]}"
                raise ArgumentError(f"num_frames: expected {expected}, got {list(num_frames)}")
            return self.forward([video[:n] for video, n in zip(features, num_frames, strict=True)])
        return pool(as_grid(features), self.plan, self.separators, backend=self.backend)

    def stream(self, chunks: Iterable[Tensor], *, num_frames: int | None = None) -> Iterator[Tensor]:
        """Pool a video that comes in pieces; ``torch.cat(list(...))`` is what ``forward`` gives of the whole.

        ``chunks`` are frames ``[p e]`` or runs of them, ``[t p e]`` or ``[t h w e]``, in order. Tokens come as
        ``[n e]``: where a token a frame leads, those at once; the rest, kept as tokens, at the end. ``num_frames`` are
        those in all, at least 1, else ArgumentError is raised. None if nobody knows: frames spread over the video are
        then chosen at its end, each from 64 that were kept; the first and the last are.
        """
        plan, total = self.plan, 0
        later = [reference.PathStream(path, num_frames) for path in plan.paths[plan.fast :]]
        for chunk in chunks:
            grid = as_grid((chunk[None] if chunk.ndim == 2 else chunk)[None])
            if plan.fast:
                yield reference.over_space(grid, plan.paths[0])[0, :, 0, 0]
            for frame in grid[0]:
                for path in later:
                    path.take(total, frame)
                total += 1
        if not total or num_frames not in (None, total):
            raise ArgumentError(f"chunks: expected {num_frames or 'at least 1'} frames in all, got {total}")
        if later:
            cells = {each.path: each.cells(total) for each in later}
            yield reference.assembled(cells, plan.by_frame, self.separators, total)[0]


def as_grid(features: Tensor) -> Tensor:
    """``[b t p e]``, p square, or ``[b t h w e]`` → ``[b t h w e]``; ArgumentError if it is neither, or empty."""
    shape = list(features.shape)
    if features.ndim not in (4, 5) or not features.is_floating_point() or 0 in shape[1:-1]:
        expected = "floats [b t p e] or [b t h w e] with a frame and a patch at least"
        raise ArgumentError(f"features: expected {expected}, got {features.dtype} {shape}")
    if features.ndim == 5:
        return features
    side = round(shape[2] ** 0.5)
    if side * side != shape[2]:
        raise ArgumentError(f"features: {shape[2]} patches fill no square grid; pass [b t h w e], got {shape}")
    return features.view(*shape[:2], side, side, shape[3])


class Backend(NamedTuple):
    """``run`` carries out a plan; ``why_not`` says why it cannot on a kind of device, and nothing where it can."""

    run: Callable[[Tensor, PoolingPlan, Vectors], Tensor]
    why_not: Callable[[PoolingPlan, str], str]


def pool(grid: Tensor, plan: PoolingPlan, separators: Vectors | None = None, *, backend: Wanted = "auto") -> Tensor:
    """``[b t h w e]`` → ``[b n e]``, in the dtype of the input; sums are taken in float32 or better.

    Features may have any strides; ``separators`` are the learned vectors ``[e]`` that the plan names. ``backend`` is
    ``"triton"``, ``"torch"``, or ``"auto"`` for the first that can, on a GPU in this order; ArgumentError is raised for
    others, and where the one named cannot, which it then says why.
    """
    return BACKENDS[choose(plan, grid.device.type, backend)].run(grid, plan, separators or {})


def choose(plan: PoolingPlan, device: str, backend: str = "auto") -> str:
    """The backend that will carry out a plan on a kind of device; ArgumentError as in `pool`."""
    if backend not in ("auto", *BACKENDS):
        raise ArgumentError(f"backend: expected one of auto, {', '.join(BACKENDS)}, got {backend!r}")
    names = [backend] if backend != "auto" else list(BACKENDS) if device == "cuda" else ["torch"]
    for name in names:
        if not (reason := BACKENDS[name].why_not(plan, device)):
            return name
    raise ArgumentError(f"backend: {backend!r} cannot pool here: {reason}")


def _triton_refuses(plan: PoolingPlan, device: str) -> str:
    even = [path for path in plan.paths[1:] if path.plain and path.frames == "even"]
    are_unrolled = all(0 < min(path.window) <= max(path.window) <= _LARGEST for path in even)
    if not (plan.fast and len(plan.paths) == 1 + len(even) <= 2 and are_unrolled):
        sizes = f"means of up to {_LARGEST} x {_LARGEST} patches of frames 'even'"
        return f"its kernels know plans of one token a frame, then at most one path: {sizes}"
    if not _HAS_TRITON:
        return "triton is not installed"
    if device != "cuda":
        from timetok.pooling import kernels

        if not kernels.INTERPRETED:
            return f"its kernels run on a GPU, not on {device}, unless TRITON_INTERPRET=1 is set in time"
    return ""


def _run_triton(grid: Tensor, plan: PoolingPlan, _: Vectors) -> Tensor:
    from timetok.pooling import kernels

    slow = plan.paths[-1]
    layout = (slow.num, *slow.window[1:]) if len(plan.paths) > 1 else (0, 2, 2)
    return cast(Tensor, kernels.slow_fast(grid, *layout))


BACKENDS: dict[str, Backend] = {
    "triton": Backend(_run_triton, _triton_refuses),
    "torch": Backend(reference.pool, lambda plan, device: ""),
}
