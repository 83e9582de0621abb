"""Losses that know that time is ordered.

Shapes: b batch, s sequence, v vocabulary, T time tokens.
"""

import reprlib
from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from timetok.errors import ArgumentError


class SoftTimeLoss:
    """Next-token cross entropy, with targets at time tokens spread over their neighbours.

    A target y among the T time ids becomes ``q_k ∝ exp(-(y - k)² / (2 sigma²))`` over the T columns, with
    the log-softmax taken over the whole vocabulary; other targets stay hard; the mean runs over all.
    Usable as ``Trainer(compute_loss_func=…)``.

    Args:
        time_token_ids: Ids of the time tokens, contiguous and in the order of time.
        sigma: Width in marks; 0 is plain cross entropy.

    Raises:
        ArgumentError: ``sigma`` is negative or not finite, or the ids are not contiguous.

    Source: the loss of VILA / NVILA (soft temporal targets, sigma = 1); sigma = 0 is LITA's.
    """

    def __init__(self, time_token_ids: Sequence[int], *, sigma: float = 1.0) -> None:
        ids = list(time_token_ids)
        if not (sigma >= 0 and isfinite(sigma)):
            raise ArgumentError(f"sigma: expected a finite number of at least 0, got {sigma}")
        if ids and ids != list(range(ids[0], ids[0] + len(ids))):
            raise ArgumentError(f"time_token_ids: expected contiguous ids in ascending order, got {reprlib.repr(ids)}")
        self.start, self.num, self.sigma = (ids[0] if ids else 0), len(ids), sigma
        marks = torch.arange(len(ids), dtype=torch.float32)
        spread = -((marks - marks[:, None]) ** 2) / (2 * max(sigma, 1e-6) ** 2)
        self.targets = torch.softmax(spread, dim=-1)

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Loss of a batch, in float32.

        Args:
            outputs: A model's output, which has ``logits`` ``[b s v]``, or the logits.
            labels: ``[b s]``, -100 where nothing is learned; position i is predicted from i - 1.
            num_items_in_batch: What the sum is divided by; the number of targets if None.

        Returns:
            A scalar; 0 where there is no target.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        target = labels[:, 1:]
        kept = target != -100
        target, log_probs = target[kept], log_softmax(logits[:, :-1][kept].float(), dim=-1)
        losses = -log_probs.gather(1, target[:, None])[:, 0]
        if self.num and self.sigma:
            mark = target - self.start
            timed = (mark >= 0) & (mark < self.num)
            columns = log_probs[:, self.start : self.start + self.num]
            soft = -(self.targets.to(losses)[mark.clamp(0, self.num - 1)] * columns).sum(1)
            losses = torch.where(timed, soft, losses)
        return losses.sum() / (num_items_in_batch if num_items_in_batch is not None else max(len(target), 1))
