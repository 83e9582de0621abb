"""One span per question: IoU, and the named protocols that turn answers into averages."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from timetok.errors import ArgumentError, DataError, TimeRangeError
from timetok.metrics.report import Report, SampleScore, Score
from timetok.timegrid import Span


@dataclass(frozen=True)
class Prediction:
    """Seconds parsed from one answer, in the order in which the answer names them; TimeRangeError if one is not finite.

    They are every timestamp of the answer, neither sorted nor clamped: that is the protocol's business.
    """

    question_id: str | int
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", tuple(float(moment) for moment in self.seconds))
        if not all(map(math.isfinite, self.seconds)):
            raise TimeRangeError(f"seconds of prediction {self.question_id!r} must be finite, got {self.seconds}")


@dataclass(frozen=True)
class Reference:
    """The annotated answer to one question; TimeRangeError if the duration is not a positive finite number of seconds.

    A ``question_id`` is unique in a data set; ``task`` names the kind of question, which reports keep apart.
    """

    question_id: str | int
    vid: str
    span: Span
    duration_seconds: float
    task: str = "rtl"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration_seconds) and self.duration_seconds > 0):
            where = f"duration_seconds of reference {self.question_id!r}"
            raise TimeRangeError(f"{where} must be positive and finite, got {self.duration_seconds!r}")


@dataclass(frozen=True)
class Protocol:
    """How answers become numbers. All read the first two timestamps, clamp and sort them, and average per video.

    ``name`` is what a report says made its numbers; ``missing`` what an answer with fewer than two timestamps counts
    as: ``"whole-video"`` the span ``[0, duration]``, ``"zero"`` an IoU of 0.
    """

    name: str
    missing: Literal["whole-video", "zero"] = "whole-video"


PROTOCOLS = {rules.name: rules for rules in (Protocol("lita-rtl"), Protocol("lita-rtl-strict", missing="zero"))}


def iou(a: Span, b: Span) -> float:
    """Intersection over union of two spans, in [0, 1]; 0 where the union has no length.

    Spans that meet have their hull as union, and the others an intersection of 0, so the hull serves for both.

    >>> from timetok.timegrid import Span
    >>> iou(Span(0, 2), Span(1, 4))
    0.25
    """
    union = max(a.end, b.end) - min(a.start, b.start)
    intersection = max(0.0, min(a.end, b.end) - max(a.start, b.start))
    return intersection / union if union > 0 else 0.0


def union_iou(a: Sequence[Span], b: Sequence[Span]) -> float:
    """IoU of what some spans cover together and what others do, in [0, 1]; 0 where nothing has length.

    >>> from timetok.timegrid import Span
    >>> union_iou([Span(0, 2), Span(1, 3)], [Span(2, 4)])
    0.25
    """
    union = _covered([*a, *b])
    return max(0.0, _covered(a) + _covered(b) - union) / union if union > 0 else 0.0


def _covered(spans: Sequence[Span]) -> float:
    length, reached = 0.0, -math.inf
    for start, end in sorted(spans, key=tuple):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def evaluate(predictions: Iterable[Prediction], references: Iterable[Reference], protocol: str = "lita-rtl") -> Report:
    """Score answers against their references, matched by ``question_id``: mIoU, P@0.5 (``>=``) and parse rate.

    ``protocol`` is a name from `PROTOCOLS`. ``"lita-rtl"`` gives an answer with fewer than two timestamps the whole
    video, as LITA's evaluation does; ``"lita-rtl-strict"`` gives it an IoU of 0. DataError is raised where there are no
    references, or question ids are missing, unknown or given twice.

    Source: LITA (arXiv 2403.19046) section 4 and its public evaluation: mean per video, then over videos.
    """
    if protocol not in PROTOCOLS:
        raise ArgumentError(f"protocol must be one of {sorted(PROTOCOLS)}, got {protocol!r}")
    rules, references = PROTOCOLS[protocol], list(references)
    answers = _match(list(predictions), references)
    pairs = [(one, _score_sample(answers[one.question_id], one, rules)) for one in references]
    by_task = defaultdict(list)
    for pair in pairs:
        by_task[pair[0].task].append(pair)
    return Report(
        **vars(_average(pairs)),
        protocol=protocol,
        per_sample=tuple(sample for _, sample in pairs),
        by_task={task: _average(pairs) for task, pairs in by_task.items()},
    )


def _match(predictions: Sequence[Prediction], references: Sequence[Reference]) -> dict[str | int, Prediction]:
    if not references:
        raise DataError("references is empty: expected at least one annotated answer")
    given = Counter(prediction.question_id for prediction in predictions)
    wanted = Counter(reference.question_id for reference in references)
    problems = {
        "references repeat": [key for key, count in wanted.items() if count > 1],
        "predictions repeat": [key for key, count in given.items() if count > 1],
        "predictions lack": [key for key in wanted if key not in given],
        "references do not know": [key for key in given if key not in wanted],
    }
    found = [f"{what} question_id {', '.join(map(repr, keys))}" for what, keys in problems.items() if keys]
    if found:
        raise DataError("; ".join(found) + "; expected exactly one prediction for each reference")
    return {prediction.question_id: prediction for prediction in predictions}


def _score_sample(prediction: Prediction, reference: Reference, rules: Protocol) -> SampleScore:
    parsed = len(prediction.seconds) >= 2
    if not parsed and rules.missing == "zero":
        return SampleScore(prediction.question_id, 0.0, parsed)
    moments = prediction.seconds[:2] if parsed else (0.0, reference.duration_seconds)
    start, end = sorted(min(max(moment, 0.0), reference.duration_seconds) for moment in moments)
    return SampleScore(prediction.question_id, iou(Span(start, end), reference.span), parsed)


def _average(pairs: Sequence[tuple[Reference, SampleScore]]) -> Score:
    groups: dict[str, list[float]] = defaultdict(list)
    for reference, sample in pairs:
        groups[reference.vid].append(sample.iou)
    return Score(
        miou=fmean(fmean(ious) for ious in groups.values()),
        p_at_05=fmean(fmean(value >= 0.5 for value in ious) for ious in groups.values()),
        parse_rate=fmean(sample.parsed for _, sample in pairs),
        num_samples=len(pairs),
        num_videos=len(groups),
    )
