"""What a pooler will do, in integers only: no tensor, no torch."""

import pathlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from timetok.errors import ArgumentError, check_count

Frames: TypeAlias = Literal["all", "even", "floor", "every", "others"]
Reduction: TypeAlias = Literal["mean", "max", "bilinear"]
Partial: TypeAlias = Literal["floor", "ceil", "adaptive"]
Place: TypeAlias = Literal["start", "end", "frame_start", "frame_end", "row_end"]
Interval: TypeAlias = tuple[int, int]


class Token(NamedTuple):
    """One visual token of a path and what it is made of: frames, rows and columns of patches ``[start, stop)``.

    A learned separator has its name in place of rows and columns; its frames are those before or around it.
    """

    path: str
    frames: tuple[int, ...]
    rows: Interval | None = None
    columns: Interval | None = None
    separator: str | None = None

    def seconds(self, times_seconds: Sequence[float]) -> float:
        """The mean time of its frames, given when each frame is shown."""
        return sum(times_seconds[frame] for frame in self.frames) / len(self.frames)


@dataclass(frozen=True, kw_only=True)
class Path:
    """Which frames of a video, and how each becomes tokens, under a name such as ``"slow"``.

    Args:
        frames: ``"all"``; ``"even"``, ``num`` of them at ``round(linspace(0, t - 1, num))``, ties to even; ``"floor"``,
            ``num`` of them at ``int(linspace(0, t, num + 1))[:-1]``; ``"every"``, each ``num``-th from the first on;
            ``"others"``, those that ``"every"`` leaves; or indices.
        window: Frames, rows and columns that become one token, 0 for all; a last group of too few frames is kept.
        cells: Rows and columns of tokens a frame, in place of a window's: cell i of n spans ``floor(i h / n)`` to
            ``ceil((i + 1) h / n)``, as adaptive pooling in PyTorch has it.
        reduction: What a window is reduced by; ``"bilinear"`` samples the middle of each cell instead.
        partial: What happens where windows do not divide the patches: ``"floor"`` drops the border, as PyTorch pools,
            ``"ceil"`` makes smaller windows of it, ``"adaptive"`` spreads as many windows as fit over everything.
        separators: Learned vectors by place, as pairs such as ``("row_end", "newline")``. Else ArgumentError is raised.
    """

    name: str
    frames: Frames | tuple[int, ...] = "all"
    num: int = 0
    window: tuple[int, int, int] = (1, 0, 0)
    cells: Interval | None = None
    reduction: Reduction = "mean"
    partial: Partial = "floor"
    separators: tuple[tuple[Place, str], ...] = ()

    def __post_init__(self) -> None:
        chosen: list[Any] = [("reduction", self.reduction, Reduction), ("partial", self.partial, Partial)]
        chosen += [("separators", place, Place) for place, _ in self.separators]
        chosen += [] if isinstance(self.frames, tuple) else [("frames, unless indices", self.frames, Frames)]
        for name, value, choices in chosen:
            if value not in get_args(choices):
                raise ArgumentError(f"{name}: expected one of {', '.join(get_args(choices))}, got {value!r}")
        if self.frames in ("even", "floor", "every", "others"):
            check_count("num", self.num, 1)
        for value in (*self.window, *(self.cells or ())):
            check_count("cells" if self.cells and value in self.cells else "window", value, 0)

    @property
    def plain(self) -> bool:
        """Whether it is means of whole windows of single frames, or over all frames of a patch, and nothing else."""
        mean = self.reduction == "mean" and self.partial == "floor" and not self.cells and not self.separators
        return mean and (self.window[0] == 1 or (self.frames, self.window) == ("all", (0, 1, 1)))

    def frame_indices(self, num_frames: int) -> list[int]:
        """The frames it sees, in order; with fewer than asked for, some repeat. ArgumentError if an index is beyond."""
        check_count("num_frames", num_frames, 1)
        if self.frames == "even":
            steps = max(self.num - 1, 1)
            parts = [(k * (num_frames - 1) // steps, k * (num_frames - 1) % steps) for k in range(self.num)]
            # + 1 where 2 rest > steps, or is equal and whole is odd; without a branch, torch.compile needs one graph
            return [whole + (2 * rest + whole % 2 + steps - 1) // (2 * steps) for whole, rest in parts]
        if self.frames == "floor":
            return [k * num_frames // self.num for k in range(self.num)]
        if isinstance(self.frames, tuple):
            if not all(0 <= frame < num_frames for frame in self.frames):
                raise ArgumentError(f"frames: expected indices below {num_frames}, got {self.frames}")
            return list(self.frames)
        return [frame for frame in range(num_frames) if self.sees(frame)]

    def sees(self, frame: int) -> bool:
        """Whether it sees a frame, where that depends on no other: of ``"all"``, ``"every"`` and ``"others"``."""
        return self.frames == "all" or (frame % self.num == 0) == (self.frames == "every")

    def groups(self, num_frames: int) -> list[tuple[int, ...]]:
        """The frames that are reduced together."""
        frames = self.frame_indices(num_frames)
        size = self.window[0] or max(len(frames), 1)
        return [tuple(frames[k : k + size]) for k in range(0, len(frames), size)]

    def intervals(self, grid: Interval) -> tuple[list[Interval], list[Interval]]:
        """Rows and columns of patches that are reduced together; ArgumentError if the grid is smaller than a window."""
        rows, columns = (self._along(*axis) for axis in zip(grid, self.window[1:], self.cells or (0, 0), strict=True))
        if not rows or not columns:
            raise ArgumentError(f"grid: expected at least {self.window[1]} x {self.window[2]} patches, got {grid}")
        return rows, columns

    def _along(self, size: int, window: int, cells: int) -> list[Interval]:
        if size < 1:
            return []
        window = window or size
        if self.partial == "adaptive":
            cells = cells or max(size // window, 1)
        if cells:
            return [(k * size // cells, -(-(k + 1) * size // cells)) for k in range(cells)]
        last = size if self.partial == "ceil" else size - size % window
        return [(k, min(k + window, size)) for k in range(0, last, window)]


@dataclass(frozen=True)
class PoolingPlan:
    """Layout of the visual tokens of one video: path after path, or where ``by_frame`` is set in turns by frame.

    The tokens of a path stand in the order t h w. ArgumentError if there is no path, or two of one name.
    """

    paths: tuple[Path, ...]
    by_frame: bool = False

    def __post_init__(self) -> None:
        names = [path.name for path in self.paths]
        if not names or len(set(names)) < len(names):
            raise ArgumentError(f"paths: expected at least one, and a name for each, got {names}")

    @property
    def fast(self) -> bool:
        """Whether the first tokens are one for each frame, in order: its mean."""
        return self.paths[0] == Path(name=self.paths[0].name) and not self.by_frame

    @property
    def separators(self) -> tuple[str, ...]:
        """Names of the learned vectors."""
        return tuple(dict.fromkeys(name for path in self.paths for _, name in path.separators))

    def num_tokens(self, num_frames: int, grid: Interval) -> int:
        """Number of tokens from ``num_frames`` frames of ``grid`` patches; ArgumentError as in `tokens`."""
        return len(self.tokens(num_frames, grid))

    def tokens(self, num_frames: int, grid: Interval) -> list[Token]:
        """What every token is made of, in order; ArgumentError without a frame, or if a window exceeds the grid."""
        tokens = [token for path in self.paths for token in _path_tokens(path, num_frames, grid)]
        return sorted(tokens, key=lambda token: token.frames[0]) if self.by_frame else tokens


def _path_tokens(path: Path, num_frames: int, grid: Interval) -> list[Token]:
    groups, (rows, columns), learned = path.groups(num_frames), path.intervals(grid), dict(path.separators)

    def separator(place: Place, frames: tuple[int, ...]) -> list[Token]:
        return [Token(path.name, frames, separator=learned[place])] if place in learned else []

    tokens: list[Token] = []
    for frames in groups:
        tokens += separator("frame_start", frames)
        for row in rows:
            tokens += [Token(path.name, frames, row, column) for column in columns]
            tokens += separator("row_end", frames)
        tokens += separator("frame_end", frames)
    return [*separator("start", groups[0]), *tokens, *separator("end", groups[-1])] if groups else []


def plan_of(
    *, preset: str | None = None, fast: bool = True, num_slow_frames: int = 4, slow_pool: int = 2, dim: object = None
) -> PoolingPlan:
    """The layout of a `SlowFastPooler` of these arguments, but for ``dim``; ArgumentError where there is none."""
    if preset is not None:
        if preset not in PRESETS:
            raise ArgumentError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
        return PRESETS[preset]
    num_slow_frames = check_count("num_slow_frames", num_slow_frames, 0)
    slow_pool = check_count("slow_pool", slow_pool)
    slow = Path(name="slow", frames="even", num=max(num_slow_frames, 1), window=(1, slow_pool, slow_pool))
    return PoolingPlan((Path(name="fast"),) * fast + (slow,) * (num_slow_frames > 0))


def _published(told: dict[str, Any]) -> PoolingPlan:
    paths = []
    for path in told["paths"]:
        shapes = {name: tuple(value) for name, value in path.items() if isinstance(value, list)}
        paths.append(Path(**(path | shapes | {"separators": tuple(path.get("separators", {}).items())})))
    return PoolingPlan(tuple(paths), by_frame=told.get("by_frame", False))


_FILE = pathlib.Path(__file__).with_name("presets.toml")
PRESETS = {name: _published(told) for name, told in tomllib.loads(_FILE.read_text(encoding="utf-8")).items()}
"""Published layouts by name; ``presets.toml``, which holds them, names their sources."""
