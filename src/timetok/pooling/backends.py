"""Who pools, and why another cannot. Shapes: b batch, t frames, h w patch grid, e width, n tokens."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Literal, NamedTuple, TypeAlias, get_args

from torch import Tensor

from timetok.errors import ArgumentError
from timetok.pooling import reference
from timetok.pooling.plan import PoolingPlan

Name: TypeAlias = Literal["triton", "torch"]
Wanted: TypeAlias = Literal["auto", "triton", "torch"]
_HAS_TRITON = find_spec("triton") is not None
_LARGEST = 8  # side of a window in the kernels, which unroll it


class Backend(NamedTuple):
    """``run`` carries out a plan; ``why_not`` says why it cannot on a kind of device, and nothing where it can."""

    run: Callable[[Tensor, PoolingPlan, Mapping[str, Tensor]], Tensor]
    why_not: Callable[[PoolingPlan, str], str]


def pool(
    grid: Tensor, plan: PoolingPlan, separators: Mapping[str, Tensor] | None = None, *, backend: Wanted = "auto"
) -> Tensor:
    """``[b t h w e]`` → ``[b n e]``, in the dtype of the input; sums are taken in float32 or better.

    Features may have any strides; ``separators`` are the learned vectors ``[e]`` that the plan names. ``backend`` is
    ``"triton"``, ``"torch"``, or ``"auto"`` for the first that can, on a GPU in this order; ArgumentError is raised for
    others, and where the one named cannot, which it then says why.
    """
    return BACKENDS[choose(plan, grid.device.type, backend)].run(grid, plan, separators or {})


def choose(plan: PoolingPlan, device: str, backend: str = "auto") -> Name:
    """The backend that will carry out a plan on a kind of device; ArgumentError as in `pool`."""
    if backend not in get_args(Wanted):
        raise ArgumentError(f"backend: expected one of {', '.join(get_args(Wanted))}, got {backend!r}")
    on_device: tuple[Name, ...] = get_args(Name) if device == "cuda" else ("torch",)
    names = on_device if backend == "auto" else [name for name in BACKENDS if name == backend]
    for name in names:
        if not (reason := BACKENDS[name].why_not(plan, device)):
            return name
    raise ArgumentError(f"backend: {backend!r} cannot pool here: {reason}")


def _triton_refuses(plan: PoolingPlan, device: str) -> str:
    if not plan.fast or not plan.paths[0].plain or len(plan.paths) > 2:
        return "its kernels know plans of one token a frame, then at most one other path"
    for path in plan.paths[1:]:
        known = path.plain and path.frames in ("even", "floor") and path.window[0] == 1
        if not known or not 0 < min(path.window[1:]) <= max(path.window[1:]) <= _LARGEST:
            sizes = f"up to {_LARGEST} x {_LARGEST} patches"
            return f"its kernels know means of {sizes} of frames 'even' or 'floor', which path {path.name!r} is not"
    if not _HAS_TRITON:
        return "triton is not installed"
    if device != "cuda":
        from timetok.pooling import kernels

        if not kernels.INTERPRETED:
            return f"its kernels run on a GPU, not on {device}, unless TRITON_INTERPRET=1 is set in time"
    return ""


def _run_triton(grid: Tensor, plan: PoolingPlan, _: Mapping[str, Tensor]) -> Tensor:
    from timetok.pooling import kernels

    slow = plan.paths[-1]
    layout = (slow.num, slow.frames == "even", *slow.window[1:]) if len(plan.paths) > 1 else (0, True, 2, 2)
    tokens: Tensor = kernels.slow_fast(grid, *layout)
    return tokens


BACKENDS: dict[Name, Backend] = {
    "triton": Backend(_run_triton, _triton_refuses),
    "torch": Backend(reference.pool, lambda plan, device: ""),
}
