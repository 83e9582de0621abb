"""Protocols: what makes an average of IoUs a number that can be compared. One is a row of ``protocols.toml``."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args, get_origin, get_type_hints

from timetok.errors import ArgumentError

Measure: TypeAlias = Literal["mAP", "HIT@1", "detection", "count"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Rules by which answers are scored; the defaults are those of most grounding benchmarks.

    Args:
        name, source: What a report is headed with, and where the rules come from.
        thresholds: IoU levels of the recall.
        strict: The recall counts IoUs above a level, not those that reach it.
        tops: Each n of R@n, the share of questions where one of an answer's first n windows reaches the level.
        max_windows: How many windows of an answer are read; None for all.
        truths: Of several annotated windows, each of the answer's is held against the first or the best; or all of
            one side against all of the other: what they cover (``"union"``), from first start to last end (``"hull"``),
            or in pairs, assigned so that their mean IoU is the highest (``"match"``).
        decimals: To how many digits of a second moments are rounded; None leaves them.
        clamp: Move moments into the video.
        inverted: A span that ends before it starts is sorted, or becomes a moment at its start, which meets nothing.
        unparsed: What an answer without a span counts: an IoU of 0, that of the whole video, or nothing at all, out of
            every denominator.
        lost_last: A moment that is the very last token of an answer is not read.
        iou_decimals: To how many digits the IoU is rounded, before the thresholds; None leaves it.
        average: Over samples, or over the means of videos.
        measures: What else is computed: see `timetok.metrics.spans`. A choice that is none raises ArgumentError.

    >>> import dataclasses
    >>> dataclasses.replace(PROTOCOLS["charades-sta"], name="mine", tops=(1, 5)).thresholds
    (0.3, 0.5, 0.7)
    """

    name: str
    source: str = ""
    thresholds: tuple[float, ...] = (0.3, 0.5, 0.7)
    strict: bool = False
    tops: tuple[int, ...] = (1,)
    max_windows: int | None = None
    truths: Literal["first", "best", "union", "hull", "match"] = "first"
    decimals: int | None = None
    clamp: bool = False
    inverted: Literal["miss", "sort"] = "miss"
    unparsed: Literal["zero", "whole", "drop"] = "zero"
    lost_last: bool = False
    iou_decimals: int | None = None
    average: Literal["sample", "video"] = "sample"
    measures: tuple[Measure, ...] = ()

    def __post_init__(self) -> None:
        for name in ("thresholds", "tops", "measures"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        given = [(name, getattr(self, name), kind) for name, kind in get_type_hints(Protocol).items()]
        for name, value, kind in given + [("measures", measure, Measure) for measure in self.measures]:
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ArgumentError(f"{name} must be one of {get_args(kind)}, got {value!r}")


_ROWS = tomllib.loads(Path(__file__).with_name("protocols.toml").read_text(encoding="utf-8"))
PROTOCOLS = {name: Protocol(name=name, **rules) for name, rules in _ROWS.items()}
"""The named protocols."""


def find_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of a name, or the given one; ArgumentError where there is none."""
    if isinstance(protocol, str) and protocol not in PROTOCOLS:
        raise ArgumentError(f"protocol must be one of {sorted(PROTOCOLS)}, got {protocol!r}")
    return PROTOCOLS[protocol] if isinstance(protocol, str) else protocol
