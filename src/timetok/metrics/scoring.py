"""Answers against annotations, by the rules of a protocol: a table of measures a question, and its averages.

Protocols make an average of IoUs a number that can be compared; each named one is a row of ``protocols.toml``.
Shapes: n questions, v videos, c measures.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, product, starmap
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from timetok.errors import ArgumentError, DataError, TimeRangeError
from timetok.metrics.spans import as_pairs, average_precision, detection, hit_at_1, hull_iou, matched_iou, union_iou
from timetok.timegrid import Span, iou

Measure: TypeAlias = Literal["mAP", "HIT@1", "detection", "count"]
Floats: TypeAlias = NDArray[np.float64]
Pair: TypeAlias = tuple["Prediction", "Reference"]

_rounded = np.vectorize(round, otypes=[np.float64])  # as Python rounds, not as numpy does

_SETS = {"union": union_iou, "hull": hull_iou, "match": matched_iou}
_LENGTHS = {"mAP": (0.0, math.inf), "mAP short": (0.0, 10.0), "mAP middle": (10.0, 30.0), "mAP long": (30.0, math.inf)}
"""QVHighlights' ranges of a window's length, the upper end included."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Rules by which answers are scored; the defaults are those of most grounding benchmarks.

    Args:
        name, source: What a report is headed with, and where the rules come from.
        thresholds, strict: IoU levels of the recall, which counts IoUs that reach them, or, if strict, are above.
        tops: Each n of R@n, the share of questions where one of an answer's first n windows reaches the level.
        max_windows: How many windows of an answer are read; None for all.
        truths: Of several annotated windows, an answer's is held against the first, the best, or all together:
            what they cover (``"union"``), from first start to last end (``"hull"``), or paired at best (``"match"``).
        decimals, clamp: Round moments to so many digits of a second, unless None; move them into the video.
        inverted: A span that ends before it starts is sorted, or becomes a moment at its start, which meets nothing.
        unparsed: What an answer without a span counts: an IoU of 0, that of the whole video, or nothing at all.
        lost_last: A moment that is the very last token of an answer is not read.
        iou_decimals, average: Round IoUs, before the thresholds; average over samples or the means of videos.
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


@dataclass(frozen=True)
class Prediction:
    """Every moment of one answer in seconds, as it names them: what is sorted or clamped, the protocol says.

    Two and two are a window, the first of which is the answer; ``scores``, one a window, rank them for average
    precision. ``saliency`` has a score for each clip of the video, for HIT@1. ``unfinished``: nothing, not even an end,
    came after the last. TimeRangeError: one is not finite.
    """

    question_id: str | int
    seconds: tuple[float, ...]
    scores: tuple[float, ...] = ()
    saliency: tuple[float, ...] = field(default=(), repr=False)
    unfinished: bool = False

    def __post_init__(self) -> None:
        for name in ("seconds", "scores", "saliency"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
            if not all(map(math.isfinite, getattr(self, name))):
                raise TimeRangeError(f"{name} of prediction {self.question_id!r} must be finite, got {self}")
        if self.scores and len(self.scores) != len(self.seconds) // 2:
            raise ArgumentError(f"scores of prediction {self.question_id!r}: expected one for two seconds, got {self}")


@dataclass(frozen=True)
class Reference:
    """The annotated answer to one question: a window, or several.

    A ``question_id`` is unique in a data set; ``task`` names the kind of question, which reports keep apart;
    ``saliency`` ``[clips][annotators]`` is for HIT@1. TimeRangeError: a duration is not positive; DataError: no window.
    """

    question_id: str | int
    vid: str
    spans: tuple[Span, ...]
    duration_seconds: float
    task: str = "rtl"
    saliency: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        given = (self.spans,) if isinstance(self.spans, Span) else self.spans
        object.__setattr__(self, "spans", tuple(Span(*each) for each in given))
        if not self.spans:
            raise DataError(f"spans of reference {self.question_id!r}: expected at least one")
        if not (math.isfinite(self.duration_seconds) and self.duration_seconds > 0):
            where = f"duration_seconds of reference {self.question_id!r}"
            raise TimeRangeError(f"{where} must be positive and finite, got {self.duration_seconds!r}")


@dataclass(frozen=True)
class SampleScore:
    """Measures of one answer by name, NaN where it has no part in one, and the windows that were scored.

    ``parsed`` tells whether the answer held any; else the windows are what the protocol puts in their place.
    """

    question_id: str | int
    vid: str
    task: str
    windows: tuple[Span, ...]
    parsed: bool
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Score:
    """Averages by name, such as ``mIoU`` and ``R1@0.5``, in [0, 1]; NaN where nothing has part in one."""

    values: Mapping[str, float]
    num_samples: int
    num_videos: int

    @property
    def miou(self) -> float:
        """Mean IoU."""
        return self.values["mIoU"]


@dataclass(frozen=True)
class Report(Score):
    """What `evaluate` found: one score a reference, in their order, and averages by task; ``str`` is a table.

    ``problems`` lists, by kind, the ids of predictions that are missing, there twice, or of no reference.
    """

    protocol: Protocol
    per_sample: tuple[SampleScore, ...]
    by_task: Mapping[str, Score]
    problems: Mapping[str, Sequence[str | int]]

    def rows(self) -> list[list[str]]:
        """The table: a header, the averages of all, those by task where there are several."""
        scores = {"all": self, **(self.by_task if len(self.by_task) > 1 else {})}
        rows = [[self.protocol.name, *self.values, "samples", "videos"]]
        for name, score in scores.items():
            values = ["–" if math.isnan(value) else f"{value:.3f}" for value in score.values.values()]
            rows.append([name, *values, str(score.num_samples), str(score.num_videos)])
        return rows

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows(), strict=True)]
        rows = ([f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)] for row in self.rows())
        return "\n".join("  ".join([cells[0].strip().ljust(widths[0]), *cells[1:]]) for cells in rows)


def evaluate(
    predictions: Iterable[Prediction], references: Iterable[Reference], protocol: str | Protocol = "lita-rtl", *,
    malformed: Literal["raise", "count"] = "raise",
) -> Report:  # fmt: skip
    """Score answers, in any order, against their references, at least one, matched by ``question_id``.

    ``protocol`` is a name from `PROTOCOLS`, else ArgumentError is raised, or one of your own. Ids that are missing,
    there twice, or of no reference are a DataError; or, with ``malformed="count"``, they are listed in the report and,
    if a reference has them, count as the protocol has answers without a span.

    >>> evaluate([Prediction("a", (2.0, 6.0))], [Reference("a", "clip", Span(4, 6), 10.0)]).miou
    0.5
    """
    rules, given, references = find_protocol(protocol), list(dict.fromkeys(predictions)), list(references)
    if not references:
        raise DataError("references is empty: expected at least one annotated answer")
    counts, wanted = (Counter(each.question_id for each in group) for group in (given, references))
    problems = {
        "missing": [key for key in wanted if not counts[key]],
        "there twice": [key for key in {**wanted, **counts} if counts[key] > 1 or wanted[key] > 1],
        "of no reference": [key for key in counts if not wanted[key]],
    }
    if any(problems.values()) and (malformed == "raise" or max(wanted.values()) > 1):
        wrong = dict.fromkeys(chain.from_iterable(problems.values()))
        told = ", ".join(f"{key!r} has {counts[key]} and {wanted[key]}" for key in wrong)
        raise DataError(f"question_id: expected one prediction and one reference for each, but {told}")
    answers = {each.question_id: each for each in given if counts[each.question_id] == 1}
    paired = [(answers.get(one.question_id) or Prediction(one.question_id, ()), one) for one in references]
    windows, parsed = _windows(paired, rules)
    measures = _measures(windows, paired, rules)
    table = np.stack([*measures.values()], 1)  # [n c]
    if rules.unparsed == "drop":
        table[~parsed] = math.nan
    rows = (dict(zip(measures, row, strict=True)) for row in table.tolist())
    found = zip(references, windows, parsed.tolist(), rows, strict=True)
    samples = tuple(SampleScore(one.question_id, one.vid, one.task, *each) for one, *each in found)
    tasks = sorted({one.task for one in references})
    by_task = {task: _score([each for each in samples if each.task == task], rules) for task in tasks}
    total = vars(_score(samples, rules))
    return Report(**total, protocol=rules, per_sample=samples, by_task=by_task, problems=problems)


def _windows(paired: Sequence[Pair], rules: Protocol) -> tuple[list[tuple[Span, ...]], NDArray[np.bool_]]:
    """The windows of each answer, or what the rules put in their place, and which answers held any, ``[n]``."""
    rows, most = [], rules.max_windows and 2 * rules.max_windows
    for answer, _ in paired:
        seconds = answer.seconds[:-1] if answer.unfinished and rules.lost_last else answer.seconds
        rows.append(seconds[: len(seconds) // 2 * 2][:most])
    sizes, lengths = np.array([len(row) // 2 for row in rows]), [one.duration_seconds for _, one in paired]
    pairs = as_pairs(np.fromiter(chain.from_iterable(rows), np.float64))
    if rules.decimals is not None:
        pairs = _rounded(pairs, rules.decimals)
    if rules.clamp:
        pairs = np.clip(pairs, 0, np.repeat(lengths, sizes)[:, None])
    pairs = np.sort(pairs) if rules.inverted == "sort" else np.where(pairs[:, :1] > pairs[:, 1:], pairs[:, :1], pairs)
    spans = starmap(Span, pairs.tolist())
    windows = [tuple(islice(spans, size)) for size in sizes.tolist()]
    if rules.unparsed == "whole":
        windows = [each or (Span(0.0, length),) for each, length in zip(windows, lengths, strict=True)]
    return windows, sizes > 0


def _measures(windows: Sequence[Sequence[Span]], paired: Sequence[Pair], rules: Protocol) -> dict[str, Floats]:
    sides = [(each, one.spans) for each, (_, one) in zip(windows, paired, strict=True)]
    width = max(rules.tops, default=1)
    if rules.truths in _SETS:
        reached = np.repeat([[_SETS[rules.truths](*each)] for each in sides], width, axis=1)
    else:  # the highest IoU of the first one, two, … windows
        held = _padded([one.spans for _, one in paired], None if rules.truths == "best" else 1)
        reached = np.maximum.accumulate(iou(_padded(windows, width)[:, :, None], held[:, None]).max(2), axis=1)
    if rules.iou_decimals is not None:
        reached = _rounded(reached, rules.iou_decimals)
    measures: dict[str, Any] = {"mIoU": reached[:, 0]}
    for top, level in product(rules.tops, rules.thresholds):
        best = reached[:, top - 1]
        measures[f"R{top}@{level:g}"] = best > level if rules.strict else best >= level
    if "mAP" in rules.measures:
        ranks = [answer.scores[: len(each)] or None for each, (answer, _) in zip(windows, paired, strict=True)]
        for name, (low, high) in _LENGTHS.items():
            wanted = [[span for span in truths if low < span.duration_seconds <= high] for _, truths in sides]
            rows = zip(windows, wanted, ranks, strict=True)
            found = np.array([average_precision(each, some, scores=scores) for each, some, scores in rows])
            measures[name] = found.mean(1)
            if name == "mAP":
                measures |= {"mAP@0.5": found[:, 0], "mAP@0.75": found[:, 5]}
    if "HIT@1" in rules.measures and any(answer.saliency for answer, _ in paired):
        shown = [(answer.saliency, one.saliency) for answer, one in paired]
        measures["HIT@1"] = [hit_at_1(*each) if all(each) else (0 if each[1] else math.nan) for each in shown]
    if "detection" in rules.measures:
        shares = [detection(*each, levels=rules.thresholds, strict=rules.strict) for each in sides]
        measures["precision"], measures["recall"] = np.array(shares).T
    if "count" in rules.measures:
        measures["count"] = [len(each) == len(truths) for each, truths in sides]
    return {name: np.asarray(values, dtype=np.float64) for name, values in measures.items()}


def _padded(rows: Sequence[Sequence[Span]], width: int | None) -> Floats:
    """The first spans of each row, ``[n width 2]``, behind them some without length, which meet nothing."""
    firsts = [row[:width] for row in rows]
    sizes = np.array([*map(len, firsts)])
    table = np.zeros((len(rows), width or sizes.max(), 2))
    pairs = as_pairs((span.start, span.end) for row in firsts for span in row)
    table[np.arange(table.shape[1]) < sizes[:, None]] = pairs
    return table


def _score(samples: Sequence[SampleScore], rules: Protocol) -> Score:
    totals, counts = _by_video(samples, rules)
    values = dict(zip(samples[0].measures, _share(totals.sum(0), counts.sum(0)).tolist(), strict=True))
    if "precision" in values:  # their F1 is that of the averages
        both = values["precision"] + values["recall"]
        values["F1"] = 2 * values["precision"] * values["recall"] / both if both else 0.0
    values["parsed"] = float(np.mean([sample.parsed for sample in samples]))
    return Score(values, len(samples), len(totals))


def _by_video(samples: Sequence[SampleScore], rules: Protocol) -> tuple[Floats, Floats]:
    """What each video, in the order of names, adds to the numerator and the denominator of every average, ``[v c]``."""
    rows = chain.from_iterable(sample.measures.values() for sample in samples)
    table = np.fromiter(rows, np.float64).reshape(len(samples), -1)  # [n c]
    places = {vid: k for k, vid in enumerate(sorted({sample.vid for sample in samples}))}
    video = [places[sample.vid] for sample in samples]
    totals, counts = np.zeros((2, len(places), table.shape[1]))
    np.add.at(totals, video, np.nan_to_num(table))
    np.add.at(counts, video, ~np.isnan(table))
    return (totals, counts) if rules.average == "sample" else (np.nan_to_num(_share(totals, counts)), np.sign(counts))


def _share(total: Floats, count: Floats) -> Floats:
    return np.asarray(np.divide(total, count, out=np.full(total.shape, math.nan), where=count > 0))


def bootstrap(
    report: Report, *, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Confidence intervals of a report's averages, by name; NaN where there is one video, or nothing has part.

    Percentiles over data sets of videos drawn with replacement, each with all its questions. F1 and parsed have none.
    """
    totals, counts = _by_video(report.per_sample, report.protocol)
    rng, num = np.random.default_rng(seed), len(totals)
    drawn = (np.bincount(rng.integers(num, size=num), minlength=num) for _ in range(num_resamples))
    rows = np.array([_share(times @ totals, times @ counts) for times in drawn])
    known = ~np.isnan(rows).all(0) & (num > 1)
    ends = np.full((2, rows.shape[1]), math.nan)
    ends[:, known] = np.nanquantile(rows[:, known], (0.5 - level / 2, 0.5 + level / 2), axis=0)
    return dict(zip(report.per_sample[0].measures, map(tuple, ends.T.tolist()), strict=True))


class Difference(NamedTuple):
    """How much higher one average is than another, its 95 % confidence interval, and a two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.value:+.3f}  ({self.low:+.3f} to {self.high:+.3f}, p = {self.p_value:.4f})"


def compare(one: Report, other: Report, *, num_resamples: int = 2000, seed: int = 0) -> dict[str, Difference]:
    """Averages of one system less those of another on the same questions, by name, with paired tests over videos.

    The interval is that of `bootstrap`, with the same videos drawn for both; the p-value that of a permutation test,
    which swaps answers video by video. What the protocol drops on either side is left out; F1, no average, has none.
    ArgumentError: they are not of one protocol and the same questions.
    """
    ours, theirs = ({each.question_id: each for each in report.per_sample} for report in (one, other))
    if one.protocol != other.protocol or ours.keys() != theirs.keys():
        raise ArgumentError("other: expected a report of the same protocol and questions")
    names = [name for name in one.per_sample[0].measures if name in other.per_sample[0].measures]
    apart = [{name: ours[key].measures[name] - theirs[key].measures[name] for name in names} for key in ours]
    samples = tuple(replace(ours[key], measures=each) for key, each in zip(ours, apart, strict=True))
    intervals = bootstrap(replace(one, per_sample=samples), num_resamples=num_resamples, seed=seed)
    totals, counts = _by_video(samples, one.protocol)
    total, signs = totals.sum(0), np.random.default_rng(seed).choice((-1.0, 1.0), (num_resamples, len(totals)))
    extreme = (np.abs(signs @ totals) >= np.abs(total) * (1 - 1e-9)).sum(0)  # whatever the order of a sum
    values = zip(_share(total, counts.sum(0)).tolist(), ((extreme + 1) / (num_resamples + 1)).tolist(), strict=True)
    return {name: Difference(value, *intervals[name], p) for name, (value, p) in zip(names, values, strict=True)}
