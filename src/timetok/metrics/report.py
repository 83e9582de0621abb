"""What an evaluation found, for people (``str``) and for files (``to_dict``)."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SampleScore:
    """Score of one answer: its IoU in [0, 1], or what the protocol gives one that held no span (``parsed``)."""

    question_id: str | int
    iou: float
    parsed: bool


@dataclass(frozen=True)
class Score:
    """Averages over a set of answers: mean IoU, the share whose IoU reaches 0.5 (P@0.5), the share that held a span.

    All are in [0, 1]; the last is always over samples.
    """

    miou: float
    p_at_05: float
    parse_rate: float
    num_samples: int
    num_videos: int


@dataclass(frozen=True)
class Report(Score):
    """Outcome of `timetok.metrics.evaluate`; ``str(report)`` is an aligned table.

    It adds the name of the protocol that made the numbers, one score per reference, in the order of the references,
    and the same averages for each task by itself.
    """

    protocol: str
    per_sample: tuple[SampleScore, ...]
    by_task: dict[str, Score]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, tuples, strings and numbers, ready for ``json.dump``."""
        return asdict(self)

    def __str__(self) -> str:
        rows: list[tuple[str, Score]] = [("all", self)]
        if len(self.by_task) > 1:
            rows += sorted(self.by_task.items())
        width = max(len(self.protocol), *(len(name) for name, _ in rows))
        lines = [f"{self.protocol:<{width}}  {'mIoU':>6}  {'P@0.5':>6}  {'parsed':>6}  {'samples':>7}  {'videos':>6}"]
        for name, score in rows:
            shares = f"{score.miou:6.3f}  {score.p_at_05:6.3f}  {score.parse_rate:6.3f}"
            lines.append(f"{name:<{width}}  {shares}  {score.num_samples:>7}  {score.num_videos:>6}")
        return "\n".join(lines)
