"""What spans have in common with others, and with themselves once written and read back; in numpy.

Shapes: m windows of an answer, best first, l levels. Windows are ``[m 2]``, in seconds, or sequences of ``Span``.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timetok.codecs import IndexCodec, MomentCodec, format_span
from timetok.errors import ArgumentError, raised_as
from timetok.timegrid import Span, iou as iou

Spans: TypeAlias = Iterable[Iterable[float]] | NDArray[np.float64]
AP_LEVELS = tuple(np.arange(50, 100, 5) / 100)  # .5:.05:.95, each the nearest float to its decimal


def as_pairs(spans: Spans) -> NDArray[np.float64]:
    """Spans as an array ``[m 2]``."""
    rows = spans if isinstance(spans, np.ndarray) else np.fromiter(chain.from_iterable(spans), np.float64)
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2)


def union_iou(a: Spans, b: Spans) -> float:
    """IoU of what some spans cover together and what others do, in [0, 1]; 0 where nothing has length.

    >>> union_iou([(0, 2), (1, 3)], [(2, 4)])
    0.25
    """
    sides = as_pairs(a), as_pairs(b)
    edges = np.unique(np.concatenate(sides))
    inside = [np.any((side[:, :1] <= edges[:-1]) & (edges[1:] <= side[:, 1:]), axis=0) for side in sides]
    both, union = (np.diff(edges)[covered].sum() for covered in (np.all(inside, 0), np.any(inside, 0)))
    return float(both / union) if union > 0 else 0.0


def hull_iou(a: Spans, b: Spans) -> float:
    """IoU of two hulls, each from the first start to the last end of its spans; 0 where a side has none.

    >>> hull_iou([(0, 1), (9, 10)], [(0, 10)]), union_iou([(0, 1), (9, 10)], [(0, 10)])
    (1.0, 0.2)
    """
    hulls = [np.array([side[:, 0].min(), side[:, 1].max()]) for side in map(as_pairs, (a, b)) if len(side)]
    return float(iou(*hulls)) if len(hulls) == 2 else 0.0


def matched_iou(a: Spans, b: Spans) -> float:
    """Mean IoU of spans in pairs, one of either side, assigned so that it is the highest; a span left over counts 0.

    >>> matched_iou([(0, 2), (4, 6)], [(5, 6), (0, 2), (8, 9)])
    0.5
    """
    from scipy.optimize import linear_sum_assignment  # which takes longer to import than most to use

    one, other = as_pairs(a), as_pairs(b)
    table = iou(one[:, None], other)
    return float(table[linear_sum_assignment(-table)].sum() / max(*table.shape, 1))


def average_precision(
    windows: Spans, truths: Spans, *, scores: ArrayLike | None = None, levels: Sequence[float] = AP_LEVELS
) -> NDArray[np.float64]:
    """Average precision ``[l]`` of ranked windows at some IoU levels, each of the truths found at most once.

    By descending ``scores`` ``[m]``, or in the order given, which also ranks equal scores, each window takes the
    nearest truth that is still free, of two as near the later, and is right if their IoU reaches the level. Precision
    is interpolated: at each recall the highest from there on. All 0 where there is no window, NaN where no truth.

    Source: the detection task of ActivityNet; QVHighlights (arXiv 2107.09609) takes the mean over `AP_LEVELS`.
    """
    ranked, wanted, level = as_pairs(windows), as_pairs(truths), np.asarray(levels)
    if scores is not None:
        ranked = ranked[np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")]
    if not len(wanted):
        return np.full(len(level), np.nan)
    rows, free = np.arange(len(level)), np.ones((len(level), len(wanted)), dtype=bool)
    hits = np.zeros((len(level), len(ranked)), dtype=bool)
    for rank, shares in enumerate(iou(ranked[:, None], wanted[::-1])):  # backwards, since argmax takes the first
        left = np.where(free, shares, -1.0)
        nearest = left.argmax(1)
        hits[:, rank] = left[rows, nearest] >= level
        free[rows, nearest] &= ~hits[:, rank]
    precision = hits.cumsum(1) / np.arange(1, len(ranked) + 1)
    highest = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    return np.asarray((highest * hits).sum(1) / len(wanted))


def detection(
    windows: Spans, truths: Spans, *, levels: Sequence[float] = (0.3, 0.5, 0.7, 0.9), strict: bool = True
) -> tuple[float, float]:
    """Precision and recall of the events found in one video: the means over some IoU levels.

    A window is right if its IoU with any truth is above the level (or reaches it, if not ``strict``), a truth is found
    if that of any window is. F1 is taken of the means over videos. Source: dense captioning (arXiv 1705.00754).
    """
    table, level = iou(as_pairs(windows)[:, None], as_pairs(truths)), np.asarray(levels)[:, None, None]
    near = table > level if strict else table >= level
    precision, recall = near.any(2), near.any(1)
    return float(precision.mean()) if precision.size else 0.0, float(recall.mean()) if recall.size else 0.0


def hit_at_1(scores: ArrayLike, annotated: ArrayLike, *, level: int = 4) -> bool:
    """Whether any annotator gave the highest scored clip at least ``level``, which is "very good" for QVHighlights.

    ``scores`` ``[c]`` are of the clips a video is cut into, of equal ones the first counts; ``annotated`` ``[c a]`` of
    a annotators. Source: QVHighlights (arXiv 2107.09609), HIT@1 of highlights.
    """
    best, table = int(np.argmax(np.asarray(scores))), np.asarray(annotated)
    return bool(best < len(table) and (table[best] >= level).any())


class Ceiling(NamedTuple):
    """Scores of the annotated spans themselves, written and read back: mean IoU of what is read with what was written.

    ``recall`` is the share that reaches an IoU threshold, ``zero_length`` the share that comes back without length.
    """

    miou: float
    recall: Mapping[float, float]
    zero_length: float
    num_spans: int


def codec_ceiling(
    codec: MomentCodec, spans: Spans, durations: ArrayLike, *, thresholds: Sequence[float] = (0.3, 0.5, 0.7, 0.9)
) -> Ceiling:
    """Best mIoU and recall a way of writing moments allows before any model is involved, each as near as it can be.

    ArgumentError unless there is a span, and a duration in seconds for each or all; ``thresholds`` are IoUs of recalls.

    >>> from timetok.timegrid import TimeGrid
    >>> codec_ceiling(IndexCodec(TimeGrid(100)), [(10.0, 20.0)], 600.0).recall[0.7]
    0.0
    """
    truth = as_pairs(spans)
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
