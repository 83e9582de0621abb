"""Temporal grounding metrics. A number is reproducible only together with the name of its protocol."""

from timetok.metrics.judge import (
    JudgeReport as JudgeReport,
    read_replies as read_replies,
    write_requests as write_requests,
)
from timetok.metrics.predictions import (
    parse_captions as parse_captions,
    parse_moments as parse_moments,
    read_predictions as read_predictions,
    write_captions as write_captions,
)
from timetok.metrics.protocols import PROTOCOLS as PROTOCOLS, Protocol as Protocol, find_protocol as find_protocol
from timetok.metrics.scoring import (
    Difference as Difference,
    Prediction as Prediction,
    Reference as Reference,
    Report as Report,
    SampleScore as SampleScore,
    Score as Score,
    bootstrap as bootstrap,
    compare as compare,
    evaluate as evaluate,
)
from timetok.metrics.spans import (
    AP_LEVELS as AP_LEVELS,
    Ceiling as Ceiling,
    average_precision as average_precision,
    codec_ceiling as codec_ceiling,
    detection as detection,
    hit_at_1 as hit_at_1,
    hull_iou as hull_iou,
    iou as iou,
    matched_iou as matched_iou,
    union_iou as union_iou,
)
