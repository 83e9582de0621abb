"""Slow and obvious versions of what the library computes, written from the formulas alone."""

from fractions import Fraction


def nearest_mark(seconds: float, duration: float, num_tokens: int) -> int:
    """The mark nearest to a timestamp, clamped, ties to the even one: exact rational arithmetic throughout."""
    index = round(Fraction(num_tokens - 1) * Fraction(seconds) / Fraction(duration))  # rounds half to even
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
