"""Temporal grounding metrics. A number is reproducible only together with the name of its protocol."""

from timetok.metrics.ceiling import Ceiling, codec_ceiling
from timetok.metrics.grounding import PROTOCOLS, Prediction, Reference, Report, Score, evaluate, union_iou
from timetok.timegrid import iou

__all__ = [
    "PROTOCOLS", "Ceiling", "Prediction", "Reference", "Report", "Score", "codec_ceiling", "evaluate", "iou",
    "union_iou",
]  # fmt: skip
