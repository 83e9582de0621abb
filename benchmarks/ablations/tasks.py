"""LITA's tasks in the fewest words, about shapes called by their colour, where no other in the clip has it."""

from collections.abc import Sequence

from numpy.random import Generator

from shapes_world.tasks import COLOUR_NAMES, pair_of
from timetok.recipes.records import Event, Record
from timetok.recipes.tasks import Task, Turn, pick, times


def named(events: Sequence[Event]) -> list[tuple[str, Event]]:
    """Those that their colour tells from all others, in the order of their starts."""
    colours = [pair_of(event)[0] for event in events]
    found = [(name, event) for name, event in zip(colours, events, strict=True) if colours.count(name) == 1]
    return sorted(found, key=lambda each: each[1].span.start)


def event_loc(record: Record, rng: Generator) -> list[Turn]:
    """When one of them is visible."""
    if not (found := named(record.events)):
        return []
    name, event = pick(rng, found)
    return [Turn(f"When is {name} visible?", times(event.span), (event.span,))]


def rtl(record: Record, rng: Generator) -> list[Turn]:
    """When the first, the last, or the one right after another is visible, and which it is."""
    starts = [event.span.start for event in record.events]
    if len(found := named(record.events)) < max(len(record.events), 2) or len({*starts}) < len(starts):
        return []  # else the order is not what can be seen, or told
    after = [(f"shape after {name}", place + 1) for place, (name, _) in enumerate(found[:-1])]
    described = [("first shape", 0), ("last shape", -1), *after]
    which, place = pick(rng, described)
    name, event = found[place]
    return [Turn(f"When is the {which} visible?", f"{times(event.span)} {name}", (event.span,))]


def listing(record: Record, rng: Generator) -> list[Turn]:
    """A drill: all of them in random order, each followed by its times."""
    if not (found := named(record.events)):
        return []
    ordered = [found[k] for k in rng.permutation(len(found))]
    told = " ".join(f"{name} {times(event.span)}" for name, event in ordered)
    return [Turn("List all.", told, tuple(event.span for _, event in ordered))]


def dvc(record: Record, rng: Generator) -> list[Turn]:
    """All of them in the order of their starts, times first."""
    if not (found := named(record.events)):
        return []
    told = " ".join(f"{times(event.span)} {name}" for name, event in found)
    return [Turn("Describe the video.", told, tuple(event.span for _, event in found))]


def vidqa(record: Record, rng: Generator) -> list[Turn]:
    """Which colours are seen; without times."""
    seen = {pair_of(event)[0] for event in record.events}
    return [Turn("Which colours?", " ".join(name for name in COLOUR_NAMES if name in seen) or "none")]


TASKS: dict[str, Task] = {"event_loc": event_loc, "rtl": rtl, "listing": listing, "dvc": dvc, "vidqa": vidqa}
