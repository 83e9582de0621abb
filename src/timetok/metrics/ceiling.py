"""What a way of writing moments costs before any model is involved: the best scores that spans can reach."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from timetok.codecs import IndexCodec, MomentCodec, format_span
from timetok.errors import ArgumentError, raised_as
from timetok.timegrid import Span, iou


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
