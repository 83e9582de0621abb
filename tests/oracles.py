"""Slow and obvious versions of what the library computes, written from the formulas alone."""

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import exp, floor, fsum, log
from typing import Any

Pair = tuple[Any, Any]
Patches = list[list[list[list[float]]]]


def nearest_mark(seconds: float, duration: float, num_tokens: int) -> int:
    """The mark nearest to a timestamp, clamped, ties to the even one: exact rational arithmetic throughout."""
    index = round(Fraction(num_tokens - 1) * Fraction(seconds) / Fraction(duration))  # rounds half to even
    return min(max(index, 0), num_tokens - 1)


def rounded_mark(seconds: float, duration: float, steps: int, offset: float, rounding: str, num_tokens: int) -> int:
    """The mark of a timestamp on a grid of any layout, in exact rationals, away from ties."""
    place = Fraction(steps) * Fraction(seconds) / Fraction(duration) - Fraction(offset)
    index = floor(place) if rounding == "floor" else round(place)
    return min(max(index, 0), num_tokens - 1)


def mark_seconds(index: int, duration: float, num_tokens: int) -> float:
    """Where a mark stands, computed exactly and rounded once."""
    return float(Fraction(index) * Fraction(duration) / (num_tokens - 1))


def iou_by_counting(a: tuple[int, int], b: tuple[int, int]) -> float:
    """IoU of two spans with whole-second ends: unit cells in both, over unit cells in either."""
    cells_a, cells_b = set(range(*a)), set(range(*b))
    either = len(cells_a | cells_b)
    return len(cells_a & cells_b) / either if either else 0.0


def slow_frames(num_frames: int, num_slow: int) -> list[int]:
    """``round(linspace(0, t - 1, n))`` in exact rationals, ties to even."""
    return [round(Fraction(i * (num_frames - 1), max(num_slow - 1, 1))) for i in range(num_slow)]


def slowfast(video: Patches, *, fast: bool, num_slow: int, side: int) -> list[list[float]]:
    """LITA's pooling of one video, indexed ``[frame][row][column][channel]``: a list of tokens, one sum at a time."""

    def mean(cells: list[list[float]]) -> list[float]:
        return [sum(channel) / len(cells) for channel in zip(*cells, strict=True)]

    tokens = [mean([cell for row in frame for cell in row]) for frame in video] if fast else []
    for index in slow_frames(len(video), num_slow):
        frame = video[index]
        for top in range(0, len(frame) - side + 1, side):
            for left in range(0, len(frame[0]) - side + 1, side):
                tokens.append(mean([frame[top + y][left + x] for y in range(side) for x in range(side)]))
    return tokens


def soft_time_loss(
    logits: list[list[list[float]]], labels: list[list[int]], ids: list[int], sigma: float, count: int | None = None
) -> float:
    """Mean over targets of -sum(q log p): q is one-hot, or a Gaussian over the time ids for a time target."""
    losses = []
    for scores_of_row, labels_of_row in zip(logits, labels, strict=True):
        for scores, target in zip(scores_of_row[:-1], labels_of_row[1:], strict=True):
            if target == -100:
                continue
            log_sum = log(fsum(exp(score) for score in scores))
            q = {target: 1.0}
            if target in ids and sigma:
                q = {k: exp(-((target - k) ** 2) / (2 * sigma**2)) for k in ids}
            losses.append(-fsum(weight * (scores[k] - log_sum) for k, weight in q.items()) / fsum(q.values()))
    return fsum(losses) / (count or max(len(losses), 1))


def dual_positions(frames: list[int], valid: list[bool], a: float, b: float) -> list[float]:
    """TC-LLaVA's positions of one row, token by token; frame -1 is text, padding stands at 0."""
    positions = []
    for k, (frame, counted) in enumerate(zip(frames, valid, strict=True)):
        before = [frames[j] for j in range(k) if valid[j]]
        texts, shown = before.count(-1), [other for other in before if other >= 0]
        moment = texts + (frame if frame >= 0 else max(shown, default=-1) + 1)
        positions.append(a * len(before) + b * moment if counted else 0)
    return positions


def sees(frames: list[int], valid: list[bool], kind: str, query: int, key: int) -> bool:
    """Whether one token of a row sees another, under TC-LLaVA's masks: case by case."""
    if query == key:
        return True
    if not valid[key]:
        return False
    if frames[query] < 0 or frames[key] < 0 or kind == "causal":
        return key < query
    if kind == "full-visual":
        return True
    if kind == "frame-block":
        return frames[query] == frames[key]
    return frames[query] == frames[key] or key < query


# The metrics, exactly: windows are pairs of numbers, one that ends before it starts covers nothing.


def exact_iou(a: Pair, b: Pair) -> Fraction:
    """Shared seconds over all seconds of two windows."""
    return exact_union_iou([a], [b])


def exact_union_iou(a: Iterable[Pair], b: Iterable[Pair]) -> Fraction:
    """The time axis is cut at every end, and the pieces that either side covers are added up."""
    sides = [[(Fraction(start), Fraction(end)) for start, end in side] for side in (a, b)]
    cuts = sorted({moment for side in sides for window in side for moment in window})
    both = either = Fraction(0)
    for low, high in itertools.pairwise(cuts):
        covered = [any(start <= low and high <= end for start, end in side) for side in sides]
        both += (high - low) * all(covered)
        either += (high - low) * any(covered)
    return both / either if either else Fraction(0)


def exact_hull_iou(a: Iterable[Pair], b: Iterable[Pair]) -> Fraction:
    """IoU of the two stretches from the first start to the last end."""
    sides = list(map(list, (a, b)))
    if not all(sides):
        return Fraction(0)
    return exact_iou(*((min(start for start, _ in side), max(end for _, end in side)) for side in sides))


def exact_matched_iou(a: Sequence[Pair], b: Sequence[Pair]) -> Fraction:
    """The best of all ways to pair windows; what is left over counts 0."""
    few, many = sorted((a, b), key=len)
    if not few:
        return Fraction(0)
    ways = itertools.permutations(many, len(few))
    return max(sum(map(exact_iou, few, way), Fraction(0)) for way in ways) / len(many)


def exact_average_precision(windows: Sequence[Pair], truths: Sequence[Pair], scores: Sequence[float], level: Fraction):
    """Go down the ranking, tick off truths, and give every truth found the best precision from there on."""
    ranking = sorted(range(len(windows)), key=lambda i: -scores[i])  # a stable sort
    free, right = set(range(len(truths))), []
    for i in ranking:
        near = [(exact_iou(windows[i], truths[j]), j) for j in free]
        best = max(near, default=(Fraction(-1), -1))  # of two as near, the later
        right.append(best[0] >= level)
        if right[-1]:
            free.remove(best[1])
    precision = [Fraction(sum(right[: n + 1]), n + 1) for n in range(len(right))]
    return sum((max(precision[n:]) for n, hit in enumerate(right) if hit), Fraction(0)) / len(truths)


def exact_detection(windows: Sequence[Pair], truths: Sequence[Pair], levels: Sequence[Fraction], strict: bool):
    """Precision and recall, each counted level by level."""

    def share(ones: Sequence[Pair], others: Sequence[Pair]) -> Fraction:
        found = [reaches(exact_iou(one, other), level, strict) for level in levels for one in ones for other in others]
        rows = [found[i : i + len(others)] for i in range(0, len(found), len(others))] if others else []
        return Fraction(sum(map(any, rows)), len(ones) * len(levels)) if ones else Fraction(0)

    return share(windows, truths), share(truths, windows)


def reaches(value: Fraction, level: Fraction, strict: bool) -> bool:
    """Above the level, or at least there."""
    return value > level if strict else value >= level


AP_LEVELS = [Fraction(n, 100) for n in range(50, 100, 5)]
LENGTHS = {"mAP": (0, None), "mAP short": (0, 10), "mAP middle": (10, 30), "mAP long": (30, None)}


def read_windows(prediction: Any, duration: float, rules: Any) -> list[Pair] | None:
    """The windows of one answer (seconds, unfinished) as a protocol has them, or None where it holds none."""
    moments = [Fraction(moment) for moment in prediction.seconds] if prediction else []
    if rules.lost_last and prediction and prediction.unfinished:
        moments = moments[:-1]
    windows = list(zip(moments[::2], moments[1::2], strict=False))
    if rules.max_windows is not None:
        windows = windows[: rules.max_windows]
    read = []
    for window in windows:
        if rules.decimals is not None:
            window = tuple(round(moment, rules.decimals) for moment in window)
        if rules.clamp:
            window = tuple(min(max(moment, Fraction(0)), Fraction(duration)) for moment in window)
        if window[0] > window[1]:
            window = window[::-1] if rules.inverted == "sort" else (window[0], window[0])
        read.append(window)
    return read or None


def measure_slowly(prediction: Any, reference: Any, rules: Any) -> dict[str, Fraction | None]:
    """The measures of one answer by name, None where it has no part in one."""
    truths = [(Fraction(span.start), Fraction(span.end)) for span in reference.spans]
    windows = read_windows(prediction, reference.duration_seconds, rules)
    dropped = windows is None and rules.unparsed == "drop"
    if windows is None:
        windows = [(Fraction(0), Fraction(reference.duration_seconds))] if rules.unparsed == "whole" else []
    together = {"union": exact_union_iou, "hull": exact_hull_iou, "match": exact_matched_iou}
    if rules.truths in together:
        values = [together[rules.truths](windows, truths)]
    else:
        held = truths if rules.truths == "best" else truths[:1]
        values = [max(exact_iou(window, truth) for truth in held) for window in windows] or [Fraction(0)]
    if rules.iou_decimals is not None:
        values = [Fraction(round(float(value), rules.iou_decimals)) for value in values]  # as Python rounds floats
    levels = [Fraction(str(level)) for level in rules.thresholds]
    found: dict[str, Fraction | None] = {"mIoU": values[0]}
    for top in rules.tops:
        for level, value in zip(rules.thresholds, levels, strict=True):
            hit = any(reaches(each, value, rules.strict) for each in values[:top])
            found[f"R{top}@{level}"] = Fraction(hit)
    if "mAP" in rules.measures:
        scores = prediction.scores if prediction and prediction.scores else [0] * len(windows)
        for name, (low, high) in LENGTHS.items():
            some = [(s, e) for s, e in truths if low < e - s and (high is None or e - s <= high)]
            each = [exact_average_precision(windows, some, scores, level) for level in AP_LEVELS] if some else []
            found[name] = sum(each) / len(each) if each else None
            if name == "mAP":
                found["mAP@0.5"], found["mAP@0.75"] = (each[0], each[5]) if each else (None, None)
    if "HIT@1" in rules.measures:
        clips = prediction.saliency if prediction else ()
        best = max(range(len(clips)), key=lambda i: (clips[i], -i)) if clips else None
        hit = best is not None and any(score >= 4 for score in reference.saliency[best : best + 1] for score in score)
        found["HIT@1"] = Fraction(hit) if reference.saliency else None
    if "detection" in rules.measures:
        found["precision"], found["recall"] = exact_detection(windows, truths, levels, rules.strict)
    if "count" in rules.measures:
        found["count"] = Fraction(len(windows) == len(truths))
    return dict.fromkeys(found) if dropped else found


def score_slowly(predictions: Iterable[Any], references: Sequence[Any], rules: Any) -> dict[str, Fraction | None]:
    """The averages of a data set by name, None where nothing has part in one."""
    answers = {prediction.question_id: prediction for prediction in predictions}
    rows = [(each.vid, measure_slowly(answers.get(each.question_id), each, rules)) for each in references]
    averages: dict[str, Fraction | None] = {}
    shown = any(each.question_id in answers and answers[each.question_id].saliency for each in references)
    for name in rows[0][1]:
        if name == "HIT@1" and not shown:  # nothing was predicted that it could be read from
            continue
        groups: dict[Any, list[Fraction]] = {}
        for place, (video, row) in enumerate(rows):
            if row[name] is not None:
                groups.setdefault(video if rules.average == "video" else place, []).append(row[name])
        means = [sum(group) / len(group) for group in groups.values()]
        averages[name] = sum(means) / len(means) if means else None
    if "detection" in rules.measures:
        both = [averages["precision"], averages["recall"]]
        averages["F1"] = None if None in both else 2 * both[0] * both[1] / sum(both) if sum(both) else Fraction(0)
    read = [read_windows(answers.get(each.question_id), each.duration_seconds, rules) for each in references]
    averages["parsed"] = Fraction(sum(windows is not None for windows in read), len(read))
    return averages
