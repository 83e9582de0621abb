"""Tasks: their answers are true, unambiguous, and in the formats the readers expect."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from shapes_world.tasks import COLOUR_NAMES, HELD_OUT, SHAPES, TASKS, draw_turns, name_of, shown
from timetok.recipes.records import Record
from timetok.timegrid import Span

EVENTS = (
    shown("red", "circle", Span(1.0, 9.0)),
    shown("blue", "square", Span(4.5, 12.25)),
    shown("white", "circle", Span(20.0, 30.0)),
)
TIMES = r"<(\d+\.\d\d)> <(\d+\.\d\d)>"


def record(events):
    return Record("clip", "clip", None, 40.0, tuple(events), "")


def turn_of(task, events, seed):
    """The only turn of a task, or None."""
    found = TASKS[task](record(events), np.random.default_rng(seed))
    assert len(found) <= 1
    return found[0] if found else None


def turns_of(task, events=EVENTS, num=60):
    return [turn_of(task, events, seed) for seed in range(num)]


def drawn(events, seed, num_turns, rates):
    return draw_turns(record(events), np.random.default_rng(seed), num_turns, rates)


@st.composite
def clips(draw):
    """Distinct pairs with starts on a coarse grid, so that ties happen."""
    pairs = draw(st.lists(st.tuples(st.sampled_from(COLOUR_NAMES), st.sampled_from(SHAPES)), max_size=5, unique=True))
    starts = [draw(st.integers(0, 6)) for _ in pairs]
    return [shown(*pair, Span(float(start), start + 2.5)) for pair, start in zip(pairs, starts, strict=True)]


def asked_for(question, events):
    """Brute force: every event the words of a reasoning question could mean."""
    start = {name_of(event): event.span.start for event in events}
    if "first" in question:
        return [e for e in events if all(e.span.start <= other for other in start.values())]
    if "last" in question:
        return [e for e in events if all(e.span.start >= other for other in start.values())]
    relation, name = re.search(r"right (after|before) the (\w+ \w+)", question).groups()
    sign = 1 if relation == "after" else -1
    gaps = [sign * (e.span.start - start[name]) for e in events]
    candidates = [gap for e, gap in zip(events, gaps, strict=True) if gap >= 0 and name_of(e) != name]
    return [e for e, gap in zip(events, gaps, strict=True) if name_of(e) != name and gap == min(candidates)]


@given(clips(), st.integers(0, 1000))
def test_reasoning_questions_have_one_answer(events, seed):
    turn = turn_of("rtl", events, seed)
    starts = sorted(event.span.start for event in events)
    if turn is None:
        assert len(events) < 2 or (starts[0] == starts[1] and starts[-1] == starts[-2])
        return
    (answer,) = asked_for(turn.question, events)
    assert turn.spans == (answer.span,)
    assert turn.answer.startswith(f"<{answer.span.start:.2f}> <{answer.span.end:.2f}> The {name_of(answer)} is the ")


def test_reasoning_covers_all_relations():
    questions = " ".join(turn.question for turn in turns_of("rtl"))
    assert all(word in questions for word in ("first", "last", "right after", "right before"))


def test_event_localisation_answers_with_the_span_only():
    for turn in turns_of("event_loc"):
        (event,) = (event for event in EVENTS if name_of(event) in turn.question)
        assert re.fullmatch(TIMES, turn.answer)
        assert turn.spans == (event.span,)
        assert turn.answer == f"<{event.span.start:.2f}> <{event.span.end:.2f}>"
    assert len({turn.question for turn in turns_of("event_loc", EVENTS[:1], 200)}) == 3 * 3


def test_a_shape_shown_twice_is_not_asked_for():
    twice = (*EVENTS[:2], shown("red", "circle", Span(15.0, 18.0)))
    assert all("blue square" in turn.question for turn in turns_of("event_loc", twice))
    assert turns_of("rtl", twice, 5) == [None] * 5


def test_dense_captioning_lists_all_in_order():
    turn = turns_of("dvc", EVENTS[::-1], 1)[0]
    wanted = "<1.00> <9.00> A red circle is visible. <4.50> <12.25> A blue square is visible. "
    assert turn.answer == wanted + "<20.00> <30.00> A white circle is visible."
    assert turn.spans == tuple(event.span for event in EVENTS)


def test_short_answers_are_true():
    for turn in turns_of("vidqa", num=300):
        if turn.question.startswith("How many"):
            assert turn.answer == "three"
        elif turn.question.startswith("What colour"):
            assert (turn.answer, "square" in turn.question) == ("blue", True)
        elif turn.question.startswith("Which"):
            assert turn.answer == ("red circle" if "first" in turn.question else "white circle")
        else:
            assert turn.answer == ("yes" if any(name_of(event) in turn.question for event in EVENTS) else "no")
        assert turn.spans == ()
        assert "<" not in turn.answer


def test_yes_and_no_are_balanced_and_held_out_pairs_never_denied():
    answers = [turn for turn in turns_of("vidqa", num=2000) if turn.answer in ("yes", "no")]
    counts = Counter(turn.answer for turn in answers)
    assert abs(counts["yes"] - counts["no"]) < 4 * np.sqrt(len(answers))  # four standard deviations of a fair coin
    denied = " ".join(turn.question for turn in answers if turn.answer == "no")
    assert not any(f"{colour} {shape}" in denied for colour, shape in HELD_OUT)


@pytest.mark.parametrize("task", TASKS)
def test_tasks_are_deterministic_and_quiet_without_events(task):
    assert turns_of(task) == turns_of(task)
    empty = turn_of(task, [], 0)
    assert empty is None or empty.answer == "zero"


@settings(max_examples=min(settings.default.max_examples, 600))  # slow ones, where thorough asks for 12 000
@given(clips(), st.integers(0, 1000), st.integers(0, 6))
def test_a_conversation_repeats_nothing(events, seed, num_turns):
    rates = dict.fromkeys(TASKS, 1.0)
    turns = drawn(events, seed, num_turns, rates)
    assert turns == drawn(events, seed, num_turns, rates)
    spans = [frozenset(turn.spans) for turn in turns if turn.spans]
    assert len(turns) <= num_turns
    assert len({turn.question for turn in turns}) == len(turns)
    assert len(set(spans)) == len(spans)
    assert all(len(turn.spans) < 2 for turn in turns[:-1])


def test_rates_choose_the_tasks():
    turns = drawn(EVENTS, 0, 3, {"event_loc": 2.0, "rtl": 0.0})
    assert len(turns) == 3 and all(re.fullmatch(TIMES, turn.answer) for turn in turns)


@pytest.mark.parametrize("seed", range(20))
def test_a_listing_names_every_event_right_before_its_times(seed):
    turn = turn_of("listing", EVENTS, seed)
    found = re.findall(r"(\w+ \w+) <([\d.]+)> <([\d.]+)>", turn.answer)
    expected = {(name_of(event), f"{event.span.start:.2f}", f"{event.span.end:.2f}") for event in EVENTS}
    assert len(found) == len(EVENTS) and set(found) == expected


def test_listings_come_in_every_order():
    answers = {turn_of("listing", EVENTS, seed).answer for seed in range(100)}
    assert len(answers) > len(EVENTS)
