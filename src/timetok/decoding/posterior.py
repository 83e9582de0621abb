"""Spans out of a language model's probabilities: what it believes, not only what it says first.

Shapes: b batch, s sequence, T time tokens, M starts that are followed up, c candidates, k possible truths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timetok.errors import ArgumentError, check_count
from timetok.timegrid import Span, TimeGrid, iou

Floats: TypeAlias = NDArray[np.float64]
Utility: TypeAlias = Callable[[Floats, Floats], Floats]


class ScoredSpan(NamedTuple):
    """A span, and its expected utility under the posterior: with the default utility its expected IoU."""

    span: Span
    confidence: float


@dataclass(frozen=True)
class SpanPosterior:
    """Probability of every span between two marks of a video, for one answer; made by `span_distribution`.

    ``joint`` is float64 ``[T T]``, starts by ends; it sums to 1 and is 0 where the end comes before the start. Its sums
    over axes 1 and 0 are the probabilities ``[T]`` that the span starts and ends at each mark.
    ``covered`` is the share of the probability of all starts that was followed up.
    """

    joint: Floats
    covered: float
    grid: TimeGrid
    duration_seconds: float

    def best(self, utility: Utility | None = None) -> ScoredSpan:
        """The span of maximum expected utility: see `ranked`."""
        return self.ranked(1, utility)[0]

    def ranked(self, num: int, utility: Utility | None = None, *, max_overlap: float = 0.5) -> list[ScoredSpan]:
        """The best spans between marks, best first: ``num`` > 0, or fewer that overlap no more than ``max_overlap``.

        ``utility`` says what a span ``[c 1 2]`` scores where another ``[k 2]`` is true, both in seconds → ``[c k]``;
        `timetok.metrics.iou` if None. To aim at R@0.7, pass ``lambda a, b: (iou(a, b) >= 0.7).astype(float)``.
        """
        check_count("num", num)
        seconds = self.grid.sample_times(self.duration_seconds)
        candidates = seconds[np.stack(np.triu_indices(self.grid.num_tokens), 1)]
        ordered = np.sort(self.joint, axis=None)
        likely = np.argwhere(self.joint >= ordered[ordered.cumsum() > 1e-3][0])  # the others are no more together
        truths, weights = seconds[likely], self.joint[tuple(likely.T)]
        parts = np.split(candidates[:, None], range(2048, len(candidates), 2048))
        expected = np.concatenate([(utility or iou)(part, truths) @ weights for part in parts])
        left, chosen = np.argsort(-expected, kind="stable"), list[ScoredSpan]()
        while len(left) and len(chosen) < num:
            best, left = left[0], left[1:]
            chosen.append(ScoredSpan(Span(*candidates[best].tolist()), float(expected[best])))
            left = left[iou(candidates[left], candidates[best]) <= max_overlap]
        return chosen

    def refined(self, span: Span, *, steps: int = 2) -> Span:
        """Move the ends of a span, such as ``best().span``, between the marks: to the mean of the probability nearby.

        ``steps`` marks on either side count. A mean over all would be bad, because a posterior has several modes.
        """
        seconds, marks = self.grid.sample_times(self.duration_seconds), np.arange(self.grid.num_tokens)
        moved = []
        for moment, shares in ((span.start, self.joint.sum(1)), (span.end, self.joint.sum(0))):
            near = shares * (abs(marks - self.grid.encode(moment, self.duration_seconds)) <= steps)
            moved.append(float(np.average(seconds, weights=near)) if near.any() else moment)
        return Span(*sorted(moved))


@torch.inference_mode()
def span_distribution(
    model: Any, inputs: Mapping[str, Any], tt: Any, *, durations: Sequence[float], between_ids: Sequence[int] = (),
    top_starts: int = 40,
) -> list[SpanPosterior]:  # fmt: skip
    """The posterior over spans of a model that is about to answer with a start and an end, one a row.

    p(start) takes one forward pass, and p(end | start) for the M likeliest starts one step on its cache, M wide. Both
    are taken over the time tokens alone, and ends before the start are ruled out. No head and no extra token: any
    causal LM with a cache that can be repeated will do; another, or arguments that do not fit, raise ArgumentError.

    ``model`` is a causal LM, a `VideoAdapter` or a LITA. ``inputs`` are what its forward takes, ``input_ids`` ``[b s]``
    padded on the left and perhaps ``attention_mask``; they end right before the start, with what the model would write
    in front of it, such as the id of a space. ``between_ids`` stand between start and end. ``tt`` is a
    `timetok.TimeTokenizer` with index tokens, else TokenizerError; ``durations`` ``[b]`` are of videos, in seconds.
    ``top_starts``, M, must cover the mass: 8 did for T = 25 and did not for T = 100, where 40 did.
    """
    count, first = tt.grid.num_tokens, tt.time_token_ids[0]
    marks, ids = slice(first, first + count), inputs["input_ids"]
    if len(durations) != len(ids) or top_starts < 1:
        wanted = f"{len(ids)} durations and a top_starts of at least 1"
        raise ArgumentError(f"durations, top_starts: expected {wanted}, got {len(durations)} and {top_starts!r}")
    mask: Tensor = inputs.get("attention_mask", torch.ones_like(ids))
    output = model(**{**inputs, **_step(ids, mask)})
    start = output.logits[:, -1, marks].double().softmax(-1)
    cache = output.past_key_values
    if not hasattr(cache, "batch_repeat_interleave"):
        raise ArgumentError(f"model: the cache of {type(model).__name__}, a {type(cache).__name__}, cannot be repeated")
    width = min(top_starts, count)
    shares, starts = (each[:, :, None] for each in start.topk(width))
    cache.batch_repeat_interleave(width)
    between = ids.new_tensor([*between_ids]).long().expand(width * len(ids), -1)
    step = torch.cat([first + starts.reshape(-1, 1), between], 1)
    mask = torch.cat([mask.repeat_interleave(width, 0), mask.new_ones(step.shape)], 1)
    output = model(past_key_values=cache, **_step(step, mask))
    scores = output.logits[:, -1, marks].double().reshape(len(ids), width, count)
    end = scores.masked_fill(torch.arange(count, device=scores.device) < starts, -torch.inf).softmax(-1)
    joint = start.new_zeros(len(ids), count, count).scatter_(1, starts.expand_as(end), shares * end)
    covered = joint.sum((1, 2))
    rows = zip((joint / covered[:, None, None]).cpu().numpy(), covered.tolist(), durations, strict=True)
    return [SpanPosterior(table, share, tt.grid, float(duration)) for table, share, duration in rows]


def _step(ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """New ids behind a mask of all so far; no positions where nothing is padded, because some models take none."""
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
    if not bool(mask.all()):
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return inputs
