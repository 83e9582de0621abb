"""How many time tokens a data set needs: the ceiling of each T on its annotated spans."""

from dataclasses import dataclass

from timetok.codecs import IndexCodec
from timetok.errors import ArgumentError, DataError, raised_as
from timetok.metrics import Ceiling, codec_ceiling
from timetok.recipes.records import Annotations
from timetok.timegrid import TimeGrid

SIZES = (10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10_000)


@dataclass(frozen=True)
class Plan:
    """What each number of time tokens allows: T → its ceiling, for a recall wanted at an IoU threshold."""

    ceilings: dict[int, Ceiling]
    level: float
    wanted: float

    @property
    def enough(self) -> int | None:
        """The smallest T from which on every T tried reaches the target; None if the largest does not."""
        short = [size for size, ceiling in self.ceilings.items() if ceiling.recall[self.level] < self.wanted]
        return min((size for size in self.ceilings if size > max(short, default=0)), default=None)

    def __str__(self) -> str:
        levels = list(next(iter(self.ceilings.values())).recall)
        rows = [f"{'T':>6}  {'mIoU':>6}  " + "  ".join(f"R@{level:g}".rjust(6) for level in levels) + "  no length"]
        for size, ceiling in self.ceilings.items():
            recalls = "  ".join(f"{ceiling.recall[level]:6.3f}" for level in levels)
            rows.append(f"{size:>6}  {ceiling.miou:6.3f}  {recalls}  {ceiling.zero_length:9.3f}")
        target = f"a recall of {self.wanted:g} at IoU {self.level:g}"
        found = f"T = {self.enough} reaches {target}" if self.enough else f"none of these reaches {target}"
        return "\n".join([*rows, f"{found}, at best, on {ceiling.num_spans} spans"])


def plan(annotations: Annotations, *, target: str) -> Plan:
    """Try every T of ``SIZES`` on LITA's grid. ``target`` is a recall at an IoU threshold, such as ``0.99@0.7``.

    ArgumentError is raised where they are not above 0 and at most 1, DataError where spans or durations are missing.
    """
    with raised_as(ArgumentError, f"target: expected RECALL@IOU, such as 0.99@0.7, got {target!r}", ValueError):
        wanted, level = map(float, target.split("@"))
        if not (0 < wanted <= 1 and 0 < level <= 1):
            raise ValueError("each is above 0 and at most 1")
    pairs = [(event.span, record.duration_seconds) for record in annotations.records for event in record.events]
    known = [(span, duration) for span, duration in pairs if span and duration]
    if not known or len(known) < annotations.census["spans"]:
        raise DataError(f"annotations: {len(known)} of {len(pairs)} events have a span and a duration; see durations")
    spans, durations = zip(*known, strict=True)
    levels = sorted({0.5, 0.7, 0.9, level})
    ceilings = {size: codec_ceiling(IndexCodec(TimeGrid(size)), spans, durations, thresholds=levels) for size in SIZES}
    return Plan(ceilings, level, wanted)
