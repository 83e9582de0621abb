"""Questions and answers about the events of a clip, in LITA's task formats.

A task is a function of the events of a clip and a random generator; it returns one `Turn`, or None where nothing
unambiguous can be asked. The wordings are few: a tiny language model learns them from scratch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from operator import attrgetter
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.random import Generator

from timetok.errors import ArgumentError
from timetok.timegrid import Span

COLOUR_NAMES = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
HELD_OUT = {("red", "cross"), ("green", "ring"), ("blue", "triangle"), ("yellow", "circle"), ("purple", "square")}
"""The (colour, shape) pairs no training clip shows, one of each shape."""

SEEN_PAIRS = tuple(pair for pair in product(COLOUR_NAMES, SHAPES) if pair not in HELD_OUT)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_start = attrgetter("span.start")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Event:
    """One coloured shape and when it is visible: frames ``ks .. ke - 1`` at ``fps`` give ``[ks / fps, ke / fps]``.

    >>> Event("red", "circle", Span(1.0, 2.5)).caption
    'A red circle is visible.'
    """

    colour: str
    shape: str
    span: Span

    @property
    def name(self) -> str:
        """Colour and shape, as questions call it: ``red circle``."""
        return f"{self.colour} {self.shape}"

    @property
    def times(self) -> str:
        """Its span in trusted text: ``<1.00> <2.50>``."""
        return f"<{self.span.start:.2f}> <{self.span.end:.2f}>"

    @property
    def caption(self) -> str:
        """The sentence that dense captioning says about it."""
        return f"A {self.name} is visible."


@dataclass(frozen=True)
class Turn:
    """One question, without times, and its answer, with times in seconds that `TimeTokenizer.to_tokens` reads.

    ``task`` is its name in `TASKS`, ``span`` the one asked for; None where the task asks for none or for several.
    """

    question: str
    answer: str
    task: str
    span: Span | None


Task: TypeAlias = Callable[[Sequence[Event], Generator], Turn | None]

_WHEN = ("When is the {name} visible?", 'When does "a {name} is visible" happen?', "When can you see the {name}?")
_ONLY_TIMES = ("Answer with the start and end time only.", "Give only the times.", "Use only time stamps.")
_DESCRIBE = ("Describe the video.", "Describe what is visible in the video.", "Describe every shape in the video.")
_TIMES_FIRST = (
    "Begin each sentence with its start and end time.",
    "Give the times before each sentence.",
    "Use time stamps for each sentence.",
)
_WHEN_AND_WHY = (
    "When is {described} visible, and why?",
    "When can you see {described}? Give the reason.",
    "Give the time of {described} and say why.",
)
_SHORT = ("Answer with a short phrase.", "Give a short answer.", "Use only one or two words.")


def event_loc(events: Sequence[Event], rng: Generator) -> Turn | None:
    """Event localisation: when is one named shape visible; the answer is its two timestamps only."""
    if not (candidates := _unique(events, "name")):
        return None
    event = _pick(rng, candidates)
    question = f"{_pick(rng, _WHEN).format(name=event.name)} {_pick(rng, _ONLY_TIMES)}"
    return Turn(question, event.times, "event_loc", event.span)


def dvc(events: Sequence[Event], rng: Generator) -> Turn | None:
    """Dense captioning: every event with its timestamps, in the order of their starts."""
    if not events:
        return None
    answer = " ".join(f"{event.times} {event.caption}" for event in sorted(events, key=_start))
    return Turn(f"{_pick(rng, _DESCRIBE)} {_pick(rng, _TIMES_FIRST)}", answer, "dvc", None)


def rtl(events: Sequence[Event], rng: Generator) -> Turn | None:
    """Reasoning localisation: a shape named only by when it appeared; its timestamps and an explanation.

    That is first, last, or right before or after another. Shapes that appear at the same instant (as at the begin of a
    cut) leave an order undecided: nothing that depends on it is asked.
    """
    if not (relations := _relations(events)):
        return None
    described, event, reason = _pick(rng, _pick(rng, list(relations.values())))
    question = _pick(rng, _WHEN_AND_WHY).format(described=f"the shape that appeared {described}")
    return Turn(question, f"{event.times} The {event.name} is the {reason}.", "rtl", event.span)


def vidqa(events: Sequence[Event], rng: Generator) -> Turn | None:
    """Plain question answering: a short answer without times; ``yes`` and ``no`` are equally frequent."""
    shown = sorted({(event.colour, event.shape) for event in events})
    absent = [pair for pair in SEEN_PAIRS if pair not in shown]  # a model would learn to deny a held-out pair
    coloured, relations = _unique(events, "shape"), _relations(events)
    ends = [end for end in ("first", "last") if end in relations]
    possible = (len(events) < len(_NUMBERS), shown and absent, coloured, ends)
    kind = next(kind for kind in rng.permutation(len(possible)) if possible[kind])
    if kind == 0:
        question, answer = "How many shapes appear?", _NUMBERS[len(events)]
    elif kind == 1:
        answer = "yes" if rng.random() < 0.5 else "no"
        question = "Is there a {} {} in the video?".format(*_pick(rng, shown if answer == "yes" else absent))
    elif kind == 2:
        event = _pick(rng, coloured)
        question, answer = f"What colour is the {event.shape}?", event.colour
    else:
        end = _pick(rng, ends)
        question, answer = f"Which shape appears {end}?", relations[end][0][1].name
    return Turn(f"{question} {_pick(rng, _SHORT)}", answer, "vidqa", None)


def listing(events: Sequence[Event], rng: Generator) -> Turn | None:
    """A drill: the shapes in random order, each followed by its timestamps.

    Not LITA's. A name right before the times it is looked up for is learned many steps sooner than a question.
    """
    if not (unique := _unique(events, "name")):
        return None
    answer = " ".join(f"{unique[k].name} {unique[k].times}" for k in rng.permutation(len(unique)))
    return Turn("List the shapes, each with its times.", answer, "listing", None)


TASKS: dict[str, Task] = {"event_loc": event_loc, "dvc": dvc, "rtl": rtl, "vidqa": vidqa, "listing": listing}
_EVERY_EVENT = {"dvc", "listing"}


def sample_turns(events: Sequence[Event], rng: Generator, num_turns: int, rates: Mapping[str, float]) -> list[Turn]:
    """Up to `num_turns` turns about one clip, for one conversation; the same state of ``rng`` gives the same.

    No question is asked twice and no two turns ask for the same span; what names every event comes last, so that no
    answer can be copied from an earlier one. Few events may give fewer turns. ``rates`` say how often a task is drawn,
    relative to the others; ArgumentError if one is unknown, or they are negative or sum to zero.
    """
    names, weights = list(rates), np.array(list(rates.values()), dtype=np.float64)
    if not TASKS.keys() >= rates.keys() or (weights < 0).any() or not 0 < weights.sum() < np.inf:
        raise ArgumentError(f"rates: expected numbers from 0, one above it, for some of {[*TASKS]}, got {dict(rates)}")
    turns: list[Turn] = []
    for _ in range(8 * num_turns):
        if len(turns) == num_turns:
            break
        turn = TASKS[names[rng.choice(len(names), p=weights / weights.sum())]](events, rng)
        if turn is not None and not any(_repeats(turn, earlier) for earlier in turns):
            turns.append(turn)
    return sorted(turns, key=lambda turn: turn.task in _EVERY_EVENT)


def _relations(events: Sequence[Event]) -> dict[str, list[tuple[str, Event, str]]]:
    """By kind of order, if unambiguous: how a shape is described, the shape, and why it is that one."""
    ordered = sorted(events, key=_start)
    if len(ordered) < 2 or len(_unique(events, "name")) < len(events):
        return {}
    starts = [event.span.start for event in ordered]
    alone = [sum(abs(start - other) < 1e-6 for other in starts) == 1 for start in starts]
    pairs = [pair for pair, both in zip(pairwise(ordered), pairwise(alone), strict=True) if all(both)]
    found = {
        "first": [("first", ordered[0], "first shape to appear")] * alone[0],
        "last": [("last", ordered[-1], "last shape to appear")] * alone[-1],
        "after": [(f"right after the {a.name}", b, f"next shape to appear after the {a.name}") for a, b in pairs],
        "before": [(f"right before the {b.name}", a, f"last shape to appear before the {b.name}") for a, b in pairs],
    }
    return {kind: relations for kind, relations in found.items() if relations}


def _unique(events: Sequence[Event], attribute: str) -> list[Event]:
    """The events that share an attribute with no other."""
    values = [getattr(event, attribute) for event in events]
    return [event for event, value in zip(events, values, strict=True) if values.count(value) == 1]


def _repeats(turn: Turn, earlier: Turn) -> bool:
    same_question = turn.question.partition("?")[0] == earlier.question.partition("?")[0]  # whatever the hint
    same_span = turn.span is not None and turn.span == earlier.span
    return same_question or same_span or {turn.task, earlier.task} <= _EVERY_EVENT


def _pick(rng: Generator, choices: Sequence[_T]) -> _T:
    return choices[int(rng.integers(len(choices)))]
