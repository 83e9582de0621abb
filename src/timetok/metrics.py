"""Temporal grounding metrics. A number is reproducible only together with the name of its protocol.

One span per question: IoU, the named protocols that turn answers into averages, the report of what they say. And what a
way of writing moments costs before any model is involved: the best score its spans can reach.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike

from timetok.codecs import IndexCodec, MomentCodec, format_span
from timetok.errors import ArgumentError, DataError, TimeRangeError, raised_as
from timetok.timegrid import Span, iou as iou


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
class SampleScore:
    """Score of one answer: its IoU in [0, 1], or what the protocol gives one that held no span (``parsed``)."""

    question_id: str | int
    iou: float
    parsed: bool


@dataclass(frozen=True)
class Score:
    """Averages in [0, 1]: mean IoU, the share whose IoU reaches 0.5 (P@0.5), the share of samples that held a span."""

    miou: float
    p_at_05: float
    parse_rate: float
    num_samples: int
    num_videos: int


@dataclass(frozen=True)
class Report(Score):
    """What `evaluate` found: one score a reference, in their order, and averages by task; ``str`` is a table."""

    protocol: str
    per_sample: tuple[SampleScore, ...]
    by_task: dict[str, Score]

    def __str__(self) -> str:
        rows: list[tuple[str, Score]] = [("all", self), *(self.by_task.items() if len(self.by_task) > 1 else ())]
        width = max(len(self.protocol), *(len(name) for name, _ in rows))
        lines = [f"{self.protocol:<{width}}  {'mIoU':>6}  {'P@0.5':>6}  {'parsed':>6}  {'samples':>7}  {'videos':>6}"]
        for name, score in rows:
            shares = f"{score.miou:6.3f}  {score.p_at_05:6.3f}  {score.parse_rate:6.3f}"
            lines.append(f"{name:<{width}}  {shares}  {score.num_samples:>7}  {score.num_videos:>6}")
        return "\n".join(lines)


PROTOCOLS = {"lita-rtl": 1.0, "lita-rtl-strict": 0.0}
"""The share of the video an answer with fewer than two timestamps counts as: all, as in LITA, or none, an IoU of 0.

All protocols read the first two timestamps, clamp and sort them, and average per video.
"""


def union_iou(a: Sequence[Span], b: Sequence[Span]) -> float:
    """IoU of what some spans cover together and what others do, in [0, 1]; 0 where nothing has length.

    >>> union_iou([Span(0, 2), Span(1, 3)], [Span(2, 4)])
    0.25
    """
    edges = np.unique([moment for span in (*a, *b) for moment in span])
    start, end, length = edges[:-1], edges[1:], np.diff(edges)
    one, other = (np.any([(s.start <= start) & (end <= s.end) for s in spans], axis=0) for spans in (a, b))
    union = length[one | other].sum()
    return float(length[one & other].sum() / union) if union > 0 else 0.0


def evaluate(predictions: Iterable[Prediction], references: Iterable[Reference], protocol: str = "lita-rtl") -> Report:
    """Score answers against their references, matched by ``question_id``: mIoU, P@0.5 (``>=``) and parse rate.

    ``protocol`` is a name from `PROTOCOLS`; another raises ArgumentError. DataError is raised where there are no
    references, or question ids are missing, unknown or given twice.

    Source: LITA (arXiv 2403.19046) section 4 and its public evaluation: mean per video, then over videos.
    """
    if protocol not in PROTOCOLS:
        raise ArgumentError(f"protocol must be one of {sorted(PROTOCOLS)}, got {protocol!r}")
    predictions, references = list(predictions), list(references)
    if not references:
        raise DataError("references is empty: expected at least one annotated answer")
    given, wanted = (Counter(each.question_id for each in group) for group in (predictions, references))
    wrong = [key for key in wanted | given if not given[key] == wanted[key] == 1]
    if wrong:
        told = ", ".join(f"{key!r} has {given[key]} and {wanted[key]}" for key in wrong)
        raise DataError(f"question_id: expected one prediction and one reference for each, but {told}")
    answers = {prediction.question_id: prediction for prediction in predictions}
    pairs = [(one, _score_sample(answers[one.question_id], one, protocol)) for one in references]
    names = {reference.task for reference in references}
    tasks = {name: _average([pair for pair in pairs if pair[0].task == name]) for name in sorted(names)}
    return Report(**vars(_average(pairs)), protocol=protocol, per_sample=tuple(one for _, one in pairs), by_task=tasks)


def _score_sample(prediction: Prediction, reference: Reference, protocol: str) -> SampleScore:
    parsed = len(prediction.seconds) >= 2
    moments = prediction.seconds[:2] if parsed else (0.0, PROTOCOLS[protocol] * reference.duration_seconds)
    start, end = sorted(min(max(moment, 0.0), reference.duration_seconds) for moment in moments)
    return SampleScore(prediction.question_id, iou(Span(start, end), reference.span), parsed)


def _average(pairs: Sequence[tuple[Reference, SampleScore]]) -> Score:
    groups: dict[str, list[float]] = defaultdict(list)
    for reference, sample in pairs:
        groups[reference.vid].append(sample.iou)
    miou = fmean(fmean(ious) for ious in groups.values())
    p_at_05 = fmean(fmean(value >= 0.5 for value in ious) for ious in groups.values())
    return Score(miou, p_at_05, fmean(sample.parsed for _, sample in pairs), len(pairs), len(groups))


@dataclass(frozen=True)
class Ceiling:
    """Scores of the annotated spans themselves, written and read back: mean IoU of what is read with what was written.

    ``recall`` is the share that reaches an IoU threshold, ``zero_length`` the share that comes back without length.
    """

    miou: float
    recall: Mapping[float, float]
    zero_length: float
    num_spans: int


def codec_ceiling(
    codec: MomentCodec,
    spans: Iterable[Iterable[float]],
    durations: ArrayLike,
    *,
    thresholds: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
) -> Ceiling:
    """Best mIoU and recall a codec allows on annotated spans, each moment written as near as it can be.

    Spans are ``Span``s or ``[n 2]`` in seconds, at least one; durations of their videos ``[n]`` in seconds, or one for
    all; else ArgumentError is raised. ``thresholds`` are IoU levels of the recall.

    >>> from timetok.timegrid import TimeGrid
    >>> codec_ceiling(IndexCodec(TimeGrid(100)), [(10.0, 20.0)], 600.0).recall[0.7]
    0.0
    """
    truth = np.array([tuple(span) for span in spans], dtype=np.float64).reshape(-1, 2)
    if not len(truth):
        raise ArgumentError("spans is empty: expected at least one annotated span")
    with raised_as(ArgumentError, f"durations must be one number or {len(truth)} of them", ValueError):
        lengths = np.broadcast_to(np.asarray(durations, dtype=np.float64), len(truth))
    if isinstance(codec, IndexCodec):
        read = codec.grid.decode(codec.grid.encode(truth, lengths[:, None]), lengths[:, None])
    else:
        pairs = zip(truth.tolist(), lengths.tolist(), strict=True)
        read = np.array([codec.parse(format_span(codec, Span(*pair), length), length) for pair, length in pairs])
    ious = iou(read, truth)
    recall = {level: float((ious >= level).mean()) for level in thresholds}
    return Ceiling(float(ious.mean()), recall, float((read[:, 0] == read[:, 1]).mean()), len(truth))
