"""Slow and obvious versions of what the library computes, written from the formulas alone."""

from fractions import Fraction
from math import exp, floor, fsum, log

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


def lita_rtl(answers: list[tuple[str, list[float], tuple[float, float], float]]) -> tuple[float, float]:
    """mIoU and P@0.5 of LITA's evaluation for rows of (video, seconds, reference, duration)."""
    by_video: dict[str, list[float]] = {}
    for video, seconds, reference, duration in answers:
        if len(seconds) < 2:
            seconds = [0.0, duration]
        start, end = sorted(min(max(moment, 0.0), duration) for moment in seconds[:2])
        both = max(0.0, min(end, reference[1]) - max(start, reference[0]))
        either = (end - start) + (reference[1] - reference[0]) - both
        by_video.setdefault(video, []).append(both / either if either else 0.0)
    mean_ious = [sum(ious) / len(ious) for ious in by_video.values()]
    precisions = [sum(1 for value in ious if value >= 0.5) / len(ious) for ious in by_video.values()]
    return sum(mean_ious) / len(mean_ious), sum(precisions) / len(precisions)


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
