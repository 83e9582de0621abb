"""Losses that know that time is ordered. Shapes: b batch, s sequence, v vocabulary, T time tokens."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from timetok.errors import ArgumentError


class SoftTimeLoss:
    """Next-token cross entropy, with targets at time tokens spread over their neighbours.

    A moment at the place y, counted in marks, becomes ``q_k ∝ exp(-(y - k)² / (2 sigma²))`` over the T columns; with
    ``sigma=0`` it becomes ``q_k = max(0, 1 - |y - k|)``: the mark itself, or the two around y if it lies between marks.
    The log-softmax is taken over the whole vocabulary, other targets stay hard, and the mean runs over all. Usable as
    ``Trainer(compute_loss_func=…)``. ArgumentError: ids are not contiguous and in order, or ``sigma`` is below 0.

    Source: VILA / NVILA (soft temporal targets, sigma = 1); sigma = 0 is LITA's, with places Momentor's and LLaVA-ST's.

    >>> loss = SoftTimeLoss(range(5, 10), sigma=0)
    >>> loss(torch.zeros(1, 2, 10), torch.tensor([[0, 7]])).exp().round().item()
    10.0
    """

    def __init__(self, time_token_ids: Sequence[int], *, sigma: float = 1.0) -> None:
        ids = list(time_token_ids)
        if not (sigma >= 0 and isfinite(sigma)):
            raise ArgumentError(f"sigma: expected a finite number of at least 0, got {sigma}")
        if ids and ids != list(range(ids[0], ids[0] + len(ids))):
            raise ArgumentError(f"time_token_ids: expected contiguous ids in ascending order, got {ids[:8]} …")
        self.start, self.num, self.sigma = (ids[0] if ids else 0), len(ids), sigma

    def __call__(
        self, outputs: Any, labels: Tensor | tuple[Tensor, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Loss of a batch, a float32 scalar; 0 where there is no target.

        ``outputs`` are logits ``[b s v]``, or have them. ``labels`` ``[b s]`` are -100 where nothing is learned;
        position i is predicted from i - 1. Or they are a pair of that and the exact places of its time tokens in marks,
        float ``[b s]``: ``(T - 1) * seconds / duration`` on LITA's grid; NaN, and what stands beside other tokens, is
        not read. The sum is divided by ``num_items_in_batch``, or the number of targets.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        labels, places = labels if isinstance(labels, tuple) else (labels, None)
        target = labels[:, 1:]
        kept = target != -100
        target, log_probs = target[kept], log_softmax(logits[:, :-1][kept].float(), dim=-1)
        losses = -log_probs.gather(1, target[:, None])[:, 0]
        timed = (target >= self.start) & (target < self.start + self.num)
        if self.sigma or places is not None:
            exact = (target - self.start)[timed].to(losses)
            if places is not None:
                given = places[:, 1:][kept][timed].to(losses)
                exact = torch.where(given.isnan(), exact, given).clamp(0, self.num - 1)
            columns = log_probs[timed, self.start : self.start + self.num]
            away = (exact[:, None] - torch.arange(self.num, device=exact.device)).abs()
            weights = (-(away**2) / (2 * self.sigma**2)).softmax(-1) if self.sigma else (1 - away).clamp(min=0)
            losses = losses.index_put((timed,), -(weights * columns).sum(1))
        return losses.sum() / (num_items_in_batch if num_items_in_batch is not None else max(len(target), 1))
