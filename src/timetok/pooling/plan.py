"""What a pooler will do, in integers only: no tensor, no torch."""

from dataclasses import dataclass
from fractions import Fraction

from timetok.errors import ArgumentError


@dataclass(frozen=True)
class SlowFastPlan:
    """Layout of the visual tokens of one video: the fast tokens first, then the slow ones.

    Attributes:
        fast: One token a frame, the mean of its patches.
        num_slow_frames: Frames seen in detail, spread evenly with both ends included; 0 for none.
        slow_pool: Side of the square that is averaged into one slow token.

    Raises:
        ArgumentError: No token would come out, or a number is no integer or too small.

    Source: arXiv 2403.19046 §3.3: s² slow frames, s x s average pooling, s = 2.
    """

    fast: bool = True
    num_slow_frames: int = 4
    slow_pool: int = 2

    def __post_init__(self) -> None:
        for name, least in (("num_slow_frames", 0), ("slow_pool", 1)):
            value: object = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ArgumentError(f"{name}: expected an integer of at least {least}, got {value!r}")
        if not self.fast and not self.num_slow_frames:
            raise ArgumentError("fast, num_slow_frames: a plan with neither fast nor slow tokens has no output")

    def slow_frame_indices(self, num_frames: int) -> list[int]:
        """Frames on the slow path: ``round(linspace(0, t - 1, n))``, ties to even.

        Computed in integers, so that every machine and every library agrees. Fewer frames than slow
        frames repeat; a single slow frame is the first.

        Raises:
            ArgumentError: ``num_frames`` is below 1.

        >>> SlowFastPlan().slow_frame_indices(100)
        [0, 33, 66, 99]
        """
        if num_frames < 1:
            raise ArgumentError(f"num_frames: expected at least 1, got {num_frames}")
        steps = max(self.num_slow_frames - 1, 1)
        return [round(Fraction(i * (num_frames - 1), steps)) for i in range(self.num_slow_frames)]

    def slow_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Cells of one slow frame; a border that does not fill a whole square is dropped, as PyTorch pools.

        Raises:
            ArgumentError: The patch grid is smaller than one square.
        """
        cells = grid[0] // self.slow_pool, grid[1] // self.slow_pool
        if min(cells) < 1:
            raise ArgumentError(f"grid: expected at least {self.slow_pool} x {self.slow_pool} patches, got {grid}")
        return cells

    def token_frames(self, num_frames: int, grid: tuple[int, int]) -> list[tuple[str, int]]:
        """Path and frame of every output token, in order: ``[("fast", 0), …, ("slow", 0), …]``.

        Raises:
            ArgumentError: ``num_frames`` is below 1, or the grid is too small for the slow path.
        """
        slow_frames = self.slow_frame_indices(num_frames)
        tokens = [("fast", i) for i in range(num_frames)] if self.fast else []
        if slow_frames:
            height, width = self.slow_grid(grid)
            tokens += [("slow", i) for i in slow_frames for _ in range(height * width)]
        return tokens
