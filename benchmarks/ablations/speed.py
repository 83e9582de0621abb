"""How long answers take: measured in one process, in turns, so that all share what else the machine does."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

import torch
from ablations.learner import Learner
from ablations.scoring import WAYS, prompts, questions, ways_of
from harness import seconds

from shapes_world.features import CachedClip

Name = tuple[str, str]  # a learner's, and what is done with it
PREFILL_BATCH = 16


def answers(learners: Mapping[str, Learner], clips: Sequence[CachedClip], frames: int) -> dict[Name, Callable]:
    """One question, answered in each way that a learner knows; the questions take turns."""
    calls: dict[Name, Callable] = {}
    for name, learner in learners.items():
        asked = [each for each in questions(learner, clips[:8], frames) if each.task == "event_loc"]
        for way in ways_of(learner):
            calls[name, way] = lambda k, way=way, learner=learner, asked=asked: WAYS[way](
                learner, [asked[k % len(asked)]]
            )
    return calls


def prefills(learners: Mapping[str, Learner], clips: Sequence[CachedClip], frames: int) -> dict[Name, Callable]:
    """The forward pass over a batch of prompts, from the few tokens that are left of the videos."""
    calls: dict[Name, Callable] = {}
    for name, learner in learners.items():
        asked = [each for each in questions(learner, clips[:30], frames) if each.task == "event_loc"][:PREFILL_BATCH]
        batch = prompts(learner, asked)
        calls[name, "prefill"] = lambda _, learner=learner, batch=batch: _forward(learner, batch)
    return calls


@torch.inference_mode()
def _forward(learner: Learner, batch: Mapping[str, Any]) -> None:
    learner.adapter(**batch, logits_to_keep=1)


def timed(calls: Mapping[Name, Callable], baseline: Name, rounds: int = 41) -> dict[Name, dict[str, Any]]:
    """Medians, and medians of the ratios to the baseline of the same round, the first of which warms up."""
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            taken[name].append(seconds(lambda call=call, number=number: call(number)))
    found = {}
    for name, times in taken.items():
        ratios = [mine / base for mine, base in zip(times[1:], taken[baseline][1:], strict=True)]
        low, *_, high = quantiles(ratios, n=5)
        numbers = {"seconds": median(times[1:]), "ratio": median(ratios), "ratio_p20": low, "ratio_p80": high}
        found[name] = {key: f"{value:.5f}" for key, value in numbers.items()} | {"rounds": rounds}
    return found
