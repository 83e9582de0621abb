"""Temporal grounding metrics. A number is reproducible only together with the name of its protocol."""

from timetok.metrics.predictions import parse_moments, read_predictions

from timetok.metrics.scoring import (  # isort: skip
    PROTOCOLS, Difference, Prediction, Protocol, Reference, Report, SampleScore, Score, bootstrap, compare, evaluate,
    find_protocol,
)  # fmt: skip
from timetok.metrics.spans import (  # isort: skip
    AP_LEVELS, Ceiling, average_precision, codec_ceiling, detection, hit_at_1, hull_iou, iou, matched_iou, union_iou,
)  # fmt: skip

__all__ = [
    "AP_LEVELS", "PROTOCOLS", "Ceiling", "Difference", "Prediction", "Protocol", "Reference", "Report", "SampleScore",
    "Score", "average_precision", "bootstrap", "codec_ceiling", "compare", "detection", "evaluate", "find_protocol",
    "hit_at_1", "hull_iou", "iou", "matched_iou", "parse_moments", "read_predictions", "union_iou",
]  # fmt: skip
