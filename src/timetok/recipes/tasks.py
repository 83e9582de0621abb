"""Questions and answers about the events of a clip, in LITA's task formats.

A task is a function of the events of a clip, its duration and a random generator; it returns one `Turn`, or
None where nothing unambiguous can be asked. Times in answers are seconds in trusted text, ``<12.34>``, which
`timetok.TimeTokenizer.to_tokens` turns into time tokens. The wordings are few and their vocabulary small: a
tiny language model learns it from scratch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from timetok.errors import ArgumentError
from timetok.timegrid import Span

COLOUR_NAMES = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
HELD_OUT = frozenset(
    {("red", "cross"), ("green", "ring"), ("blue", "triangle"), ("yellow", "circle"), ("purple", "square")}
)
"""The (colour, shape) pairs no training clip shows, one of each shape."""

_SEEN_PAIRS = tuple(pair for pair in product(COLOUR_NAMES, SHAPES) if pair not in HELD_OUT)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SAME_INSTANT_SECONDS = 1e-6
_T = TypeVar("_T")


@dataclass(frozen=True)
class Event:
    """One coloured shape and when it is visible.

    Frames ``ks .. ke - 1`` of a clip at ``fps`` give the span ``[ks / fps, ke / fps]``.

    Example:
        >>> Event("red", "circle", Span(1.0, 2.5)).name
        'red circle'
    """

    colour: str
    shape: str
    span: Span

    @property
    def name(self) -> str:
        """Colour and shape, as questions call it: ``red circle``."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Turn:
    """One question with its answer.

    Attributes:
        question: what the user asks; holds no times.
        answer: what the model should say, times as seconds in trusted text.
        task: the name of the task in `TASKS`.
        span: the one span asked for, in seconds; None where the task asks for none or for several.
    """

    question: str
    answer: str
    task: str
    span: Span | None


Task: TypeAlias = Callable[[Sequence[Event], float, np.random.Generator], Turn | None]


def event_loc(events: Sequence[Event], duration_seconds: float, rng: np.random.Generator) -> Turn | None:
    """Event localisation: when is one named shape visible; the answer is its two timestamps only."""
    names = [event.name for event in events]
    candidates = [event for event in events if names.count(event.name) == 1]
    if not candidates:
        return None
    event = _pick(rng, candidates)
    question = _pick(rng, _WHEN).format(name=event.name) + " " + _pick(rng, _ONLY_TIMES)
    return Turn(question, _times(event.span), "event_loc", event.span)


def dvc(events: Sequence[Event], duration_seconds: float, rng: np.random.Generator) -> Turn | None:
    """Dense captioning: every event with its timestamps, in the order of their starts."""
    if not events:
        return None
    ordered = sorted(events, key=lambda event: event.span.start)
    answer = " ".join(f"{_times(event.span)} {caption(event)}" for event in ordered)
    return Turn(f"{_pick(rng, _DESCRIBE)} {_pick(rng, _TIMES_FIRST)}", answer, "dvc", None)


def rtl(events: Sequence[Event], duration_seconds: float, rng: np.random.Generator) -> Turn | None:
    """Reasoning localisation: a shape named only by when it appeared; its timestamps and an explanation.

    Asked for are the first and the last shape to appear, and the one that appeared right before or right after
    another. Shapes that appear at the same instant (as at the begin of a cut) leave an order undecided: nothing
    that depends on it is asked.
    """
    relations = _relations(events)
    if not relations:
        return None
    described, event, reason = _pick(rng, _pick(rng, list(relations.values())))
    question = _pick(rng, _WHEN_AND_WHY).format(described=described)
    return Turn(question, f"{_times(event.span)} The {event.name} is {reason}.", "rtl", event.span)


def vidqa(events: Sequence[Event], duration_seconds: float, rng: np.random.Generator) -> Turn | None:
    """Plain question answering: a short answer without times; ``yes`` and ``no`` are equally frequent."""
    kinds = [_how_many, _is_there, _what_colour, _which_order]
    for index in rng.permutation(len(kinds)):
        asked = kinds[index](events, rng)
        if asked is not None:
            return Turn(f"{asked[0]} {_pick(rng, _SHORT)}", asked[1], "vidqa", None)
    return None


def listing(events: Sequence[Event], duration_seconds: float, rng: np.random.Generator) -> Turn | None:
    """A drill: the shapes in random order, each followed by its timestamps.

    Not LITA's. The name stands right before the times it is looked up for, which a model learns many steps
    sooner than a question with words between the two.
    """
    names = [event.name for event in events]
    unique = [event for event in events if names.count(event.name) == 1]
    if not unique:
        return None
    order = [unique[int(index)] for index in rng.permutation(len(unique))]
    answer = " ".join(f"{event.name} {_times(event.span)}" for event in order)
    return Turn("List the shapes, each with its times.", answer, "listing", None)


TASKS: dict[str, Task] = {"event_loc": event_loc, "dvc": dvc, "rtl": rtl, "vidqa": vidqa, "listing": listing}


_EVERY_EVENT = {"dvc", "listing"}


def sample_turns(
    events: Sequence[Event],
    duration_seconds: float,
    rng: np.random.Generator,
    num_turns: int,
    rates: Mapping[str, float],
) -> list[Turn]:
    """Up to `num_turns` turns about one clip, for one conversation.

    No question is asked twice and no two turns ask for the same span; what names every event comes last, so that
    no answer can be copied from an earlier one. A clip with few events may give fewer turns than wanted.

    Args:
        events: what is visible in the clip.
        duration_seconds: how long the clip is.
        rng: drawn from; the same state gives the same turns.
        num_turns: how many turns are wanted.
        rates: task name → how often it is drawn, relative to the others.

    Raises:
        ArgumentError: a task is unknown, or the rates are negative or sum to zero.
    """
    names, weights = _weights(rates)
    turns: list[Turn] = []
    for _ in range(8 * num_turns):
        if len(turns) == num_turns:
            break
        turn = TASKS[names[int(rng.choice(len(names), p=weights))]](events, duration_seconds, rng)
        if turn is not None and not any(_repeats(turn, earlier) for earlier in turns):
            turns.append(turn)
    return sorted(turns, key=lambda turn: turn.task in _EVERY_EVENT)


def corpus(num_texts: int, *, seed: int = 0) -> Iterator[str]:
    """Yield questions and answers (one text each) over all tasks, to train a tokenizer on.

    Times stay as seconds, ``<12.34>``: the caller keeps, converts or strips them.

    Example:
        >>> len(list(corpus(10)))
        10
    """
    rng = np.random.default_rng([seed, 0x7EC5])
    texts: list[str] = []
    for _ in range(num_texts):
        while not texts:
            duration = float(rng.uniform(5.0, 180.0))
            turn = _pick(rng, list(TASKS.values()))(_random_events(duration, rng), duration, rng)
            texts = [turn.answer, turn.question] if turn else []
        yield texts.pop()


def caption(event: Event) -> str:
    """The sentence dense captioning says about an event.

    Example:
        >>> caption(Event("red", "circle", Span(1.0, 2.5)))
        'A red circle is visible.'
    """
    return f"A {event.name} is visible."


_WHEN = (
    "When is the {name} visible?",
    'When does "a {name} is visible" happen?',
    "When can you see the {name}?",
)
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


def _relations(events: Sequence[Event]) -> dict[str, list[tuple[str, Event, str]]]:
    """Relation → (how the shape is described, the shape, why it is that one), only what is unambiguous."""
    ordered = sorted(events, key=lambda event: event.span.start)
    found: dict[str, list[tuple[str, Event, str]]] = {}
    if len(ordered) < 2 or len({event.name for event in ordered}) < len(ordered):
        return found
    # alone[i]: no other event starts together with event i
    tied = [b.span.start - a.span.start < _SAME_INSTANT_SECONDS for a, b in pairwise(ordered)]
    alone = [not (before or after) for before, after in zip([False, *tied], [*tied, False], strict=True)]
    if alone[0]:
        found["first"] = [("the shape that appeared first", ordered[0], "the first shape to appear")]
    if alone[-1]:
        found["last"] = [("the shape that appeared last", ordered[-1], "the last shape to appear")]
    for index, (a, b) in enumerate(pairwise(ordered)):
        if alone[index] and alone[index + 1]:
            after = (f"the shape that appeared right after the {a.name}", b)
            before = (f"the shape that appeared right before the {b.name}", a)
            found.setdefault("after", []).append((*after, f"the next shape to appear after the {a.name}"))
            found.setdefault("before", []).append((*before, f"the last shape to appear before the {b.name}"))
    return found


def _how_many(events: Sequence[Event], rng: np.random.Generator) -> tuple[str, str] | None:
    return ("How many shapes appear?", _NUMBERS[len(events)]) if len(events) < len(_NUMBERS) else None


def _is_there(events: Sequence[Event], rng: np.random.Generator) -> tuple[str, str] | None:
    shown = {(event.colour, event.shape) for event in events}
    # A held-out pair is never asked about in vain: a model would learn to deny it.
    absent = [pair for pair in _SEEN_PAIRS if pair not in shown]
    if not shown or not absent:
        return None
    yes = bool(rng.random() < 0.5)
    colour, shape = _pick(rng, sorted(shown) if yes else absent)
    return f"Is there a {colour} {shape} in the video?", "yes" if yes else "no"


def _what_colour(events: Sequence[Event], rng: np.random.Generator) -> tuple[str, str] | None:
    shapes = [event.shape for event in events]
    candidates = [event for event in events if shapes.count(event.shape) == 1]
    if not candidates:
        return None
    event = _pick(rng, candidates)
    return f"What colour is the {event.shape}?", event.colour


def _which_order(events: Sequence[Event], rng: np.random.Generator) -> tuple[str, str] | None:
    relations = _relations(events)
    ends = [end for end in ("first", "last") if end in relations]
    if not ends:
        return None
    end = _pick(rng, ends)
    return f"Which shape appears {end}?", relations[end][0][1].name


def _weights(rates: Mapping[str, float]) -> tuple[list[str], NDArray[np.float64]]:
    unknown = sorted(set(rates) - set(TASKS))
    if unknown:
        raise ArgumentError(f"rates names unknown tasks {unknown}; expected some of {sorted(TASKS)}")
    weights = np.array(list(rates.values()), dtype=np.float64)
    if not weights.size or (weights < 0).any() or not 0 < weights.sum() < np.inf:
        raise ArgumentError(f"rates is {dict(rates)}; expected non-negative numbers, at least one above zero")
    return list(rates), weights / weights.sum()


def _repeats(turn: Turn, earlier: Turn) -> bool:
    same_question = turn.question.partition("?")[0] == earlier.question.partition("?")[0]  # whatever the hint
    same_span = turn.span is not None and turn.span == earlier.span
    return same_question or same_span or {turn.task, earlier.task} <= _EVERY_EVENT


def _random_events(duration_seconds: float, rng: np.random.Generator) -> list[Event]:
    pairs = rng.choice(len(_SEEN_PAIRS), size=int(rng.integers(2, 6)), replace=False)
    starts = rng.uniform(0.0, 0.6, size=len(pairs)) * duration_seconds
    lengths = rng.uniform(0.08, 0.4, size=len(pairs)) * duration_seconds
    chosen = [_SEEN_PAIRS[pair] for pair in pairs]
    return [
        Event(colour, shape, Span(float(start), float(start + length)))
        for (colour, shape), start, length in zip(chosen, starts, lengths, strict=True)
    ]


def _times(span: Span) -> str:
    return f"<{span.start:.2f}> <{span.end:.2f}>"


def _pick(rng: np.random.Generator, choices: Sequence[_T]) -> _T:
    return choices[int(rng.integers(len(choices)))]
