"""LITA's tasks: from what is annotated about a video to questions and answers.

A task is a function of a record and a random generator. One more is a function in a file of one's own, which a preset
names::

    def how_many(record, rng):
        return [Turn("How many events are there?", str(len(record.events)))]
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator

from timetok.recipes.records import Record
from timetok.timegrid import Span


class Turn(NamedTuple):
    """A question without times, its answer with moments for `TimeTokenizer.to_tokens`, and the spans asked for."""

    question: str
    answer: str
    spans: tuple[Span, ...] = ()


Task: TypeAlias = Callable[[Record, Generator], Sequence[Turn]]
"""The turns of one conversation about a record; none where nothing unambiguous can be asked."""

WORDINGS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("wordings.toml").read_text(encoding="utf-8"))


def event_loc(record: Record, rng: Generator) -> list[Turn]:
    """Event localisation: when does one of the events happen; the answer is its timestamps only."""
    if not (events := _captions(record)):
        return []
    event, span = pick(rng, events)
    when = pick(rng, WORDINGS["when"]).format(event=event.rstrip(".").lower())
    return [Turn(f"{when} {pick(rng, WORDINGS['only_times'])}", times(span), (span,))]


def dvc(record: Record, rng: Generator, *, wordings: Mapping[str, Sequence[str]] = WORDINGS) -> list[Turn]:
    """Dense captioning: every event with its timestamps, in the order of their starts."""
    if not (events := sorted(_captions(record), key=lambda event: event[1].start)):
        return []
    question = f"{pick(rng, wordings['describe'])} {pick(rng, wordings['times_first'])}"
    return [Turn(question, " ".join(f"{times(span)} {text}" for text, span in events), tuple(s for _, s in events))]


def vidqa(record: Record, rng: Generator) -> list[Turn]:
    """Video question answering: all questions about a video, each with the wish for a short answer."""
    return [Turn(f"{turn.question} {pick(rng, WORDINGS['short'])}", turn.answer) for turn in imgqa(record, rng)]


def imgqa(record: Record, rng: Generator) -> list[Turn]:
    """Instructions about an image, unchanged; the image is shown as a video that stands still."""
    return [Turn(event.text, event.answer) for event in record.events if event.answer]


def rtl(record: Record, rng: Generator) -> list[Turn]:
    """Reasoning localisation: one of the questions, unchanged, whose answer names moments and explains."""
    turns = imgqa(record, rng)
    return [pick(rng, turns)] if turns else []


TASKS: dict[str, Task] = {"event_loc": event_loc, "dvc": dvc, "vidqa": vidqa, "imgqa": imgqa, "rtl": rtl}
"""LITA's five, by the names of arXiv 2403.19046."""


def times(span: Span) -> str:
    """A span in trusted text: ``<1.00> <2.50>``."""
    return f"<{span.start:.2f}> <{span.end:.2f}>"


def pick(rng: Generator, choices: Sequence[Any]) -> Any:
    """One of several, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def pick_name(rng: Generator, rates: Mapping[str, float]) -> str:
    """One of several names, each as likely as its rate is large beside the others."""
    weights = np.array(list(rates.values()), dtype=np.float64)
    return list(rates)[rng.choice(len(weights), p=weights / weights.sum())]


def _captions(record: Record) -> list[tuple[str, Span]]:
    """What happens or is asked for, and when."""
    return [(event.text, event.span) for event in record.events if event.span and not event.answer]
