"""The tasks of the shapes: LITA's formats, in few wordings, which a tiny language model learns from scratch.

Their records are clips, whose events say ``A red circle is visible.``
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise, product

from numpy.random import Generator

from timetok.recipes.records import Event, Record
from timetok.recipes.tasks import Task, Turn, dvc, pick, pick_name, times
from timetok.timegrid import Span

COLOUR_NAMES = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
HELD_OUT = {("red", "cross"), ("green", "ring"), ("blue", "triangle"), ("yellow", "circle"), ("purple", "square")}
"""The (colour, shape) pairs no training clip shows, one of each shape."""

SEEN_PAIRS = tuple(pair for pair in product(COLOUR_NAMES, SHAPES) if pair not in HELD_OUT)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

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


def shown(colour: str, shape: str, span: Span) -> Event:
    """The event that a shape is visible.

    >>> shown("red", "circle", Span(1.0, 2.5)).text
    'A red circle is visible.'
    """
    return Event(f"A {colour} {shape} is visible.", span)


def pair_of(event: Event) -> tuple[str, str]:
    """Its colour and shape."""
    _, colour, shape, *_ = event.text.split()
    return colour, shape


def name_of(event: Event) -> str:
    """Colour and shape, as questions call it: ``red circle``."""
    return " ".join(pair_of(event))


def event_loc(record: Record, rng: Generator) -> list[Turn]:
    """Event localisation: when is one named shape visible; the answer is its two timestamps only."""
    if not (candidates := _unique(record.events, name_of)):
        return []
    event = pick(rng, candidates)
    return [
        Turn(
            f"{pick(rng, _WHEN).format(name=name_of(event))} {pick(rng, _ONLY_TIMES)}", times(event.span), (event.span,)
        )
    ]


def rtl(record: Record, rng: Generator) -> list[Turn]:
    """Reasoning localisation: a shape named only by when it appeared; its timestamps and an explanation.

    That is first, last, or right before or after another. Shapes that appear at the same instant (as at the begin of a
    cut) leave an order undecided: nothing that depends on it is asked.
    """
    if not (relations := _relations(record.events)):
        return []
    described, event, reason = pick(rng, pick(rng, list(relations.values())))
    question = pick(rng, _WHEN_AND_WHY).format(described=f"the shape that appeared {described}")
    return [Turn(question, f"{times(event.span)} The {name_of(event)} is the {reason}.", (event.span,))]


def vidqa(record: Record, rng: Generator) -> list[Turn]:
    """Plain question answering: a short answer without times; ``yes`` and ``no`` are equally frequent."""
    events = record.events
    seen = sorted({pair_of(event) for event in events})
    absent = [pair for pair in SEEN_PAIRS if pair not in seen]  # a model would learn to deny a held-out pair
    coloured, relations = _unique(events, lambda event: pair_of(event)[1]), _relations(events)
    ends = [end for end in ("first", "last") if end in relations]
    possible = (len(events) < len(_NUMBERS), seen and absent, coloured, ends)
    kind = next(kind for kind in rng.permutation(len(possible)) if possible[kind])
    if kind == 0:
        question, answer = "How many shapes appear?", _NUMBERS[len(events)]
    elif kind == 1:
        answer = "yes" if rng.random() < 0.5 else "no"
        question = "Is there a {} {} in the video?".format(*pick(rng, seen if answer == "yes" else absent))
    elif kind == 2:
        answer, shape = pair_of(pick(rng, coloured))
        question = f"What colour is the {shape}?"
    else:
        end = pick(rng, ends)
        question, answer = f"Which shape appears {end}?", name_of(relations[end][0][1])
    return [Turn(f"{question} {pick(rng, _SHORT)}", answer)]


def listing(record: Record, rng: Generator) -> list[Turn]:
    """A drill: the shapes in random order, each followed by its timestamps.

    Not LITA's. A name right before the times it is looked up for is learned many steps sooner than a question.
    """
    if not (unique := _unique(record.events, name_of)):
        return []
    ordered = [unique[k] for k in rng.permutation(len(unique))]
    answer = " ".join(f"{name_of(event)} {times(event.span)}" for event in ordered)
    return [Turn("List the shapes, each with its times.", answer, tuple(event.span for event in ordered))]


TASKS: dict[str, Task] = {
    "event_loc": event_loc,
    "dvc": partial(dvc, wordings={"describe": _DESCRIBE, "times_first": _TIMES_FIRST}),
    "rtl": rtl,
    "vidqa": vidqa,
    "listing": listing,
}


def draw_turns(
    record: Record, rng: Generator, num_turns: int, rates: Mapping[str, float], tasks: Mapping[str, Task] = TASKS
) -> list[Turn]:
    """At least `num_turns` turns about one record, for one conversation; the same state of ``rng`` gives the same.

    No question is asked twice and no two turns ask for the same spans; what asks for several comes last, so that no
    answer can be copied from an earlier one. A poor record may give fewer turns. ``rates`` say how often a task is
    drawn, relative to the others.
    """
    turns: list[Turn] = []
    for _ in range(8 * num_turns):
        if len(turns) >= num_turns:
            break
        found = tasks[pick_name(rng, rates)](record, rng)
        turns += [turn for turn in found if not any(_repeats(turn, earlier) for earlier in turns)]
    return sorted(turns, key=lambda turn: len(turn.spans) > 1)


def _repeats(turn: Turn, earlier: Turn) -> bool:
    same_question = turn.question.partition("?")[0] == earlier.question.partition("?")[0]  # whatever the hint
    return same_question or (turn.spans != () and set(turn.spans) == set(earlier.spans))


def _relations(events: Sequence[Event]) -> dict[str, list[tuple[str, Event, str]]]:
    """By kind of order, if unambiguous: how a shape is described, the shape, and why it is that one."""
    ordered = sorted(events, key=lambda event: event.span.start)
    if len(ordered) < 2 or len(_unique(events, name_of)) < len(events):
        return {}
    starts = [event.span.start for event in ordered]
    alone = [sum(abs(start - other) < 1e-6 for other in starts) == 1 for start in starts]
    pairs = [pair for pair, both in zip(pairwise(ordered), pairwise(alone), strict=True) if all(both)]
    after, before = [(name_of(a), b) for a, b in pairs], [(name_of(b), a) for a, b in pairs]
    found = {
        "first": [("first", ordered[0], "first shape to appear")] * alone[0],
        "last": [("last", ordered[-1], "last shape to appear")] * alone[-1],
        "after": [(f"right after the {a}", event, f"next shape to appear after the {a}") for a, event in after],
        "before": [(f"right before the {b}", event, f"last shape to appear before the {b}") for b, event in before],
    }
    return {kind: relations for kind, relations in found.items() if relations}


def _unique(events: Sequence[Event], attribute: Callable[[Event], str]) -> list[Event]:
    """The events that share an attribute with no other."""
    values = list(map(attribute, events))
    return [event for event, value in zip(events, values, strict=True) if values.count(value) == 1]
