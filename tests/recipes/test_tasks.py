"""LITA's tasks on annotated records, and the conversations drawn from them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from timetok.recipes.records import Event, Record
from timetok.recipes.tasks import TASKS, WORDINGS, Turn, pick_name
from timetok.timegrid import Span

EVENTS = (
    Event("A man {runs} to the left.", Span(4.0, 9.5)),
    Event("He falls.", Span(1.25, 3.0)),
)
TURNS = (("why did he fall", "tired"), ("when does he fall", "<1.25> <3.00> He is tired."))


def record(events=EVENTS, turns=TURNS) -> Record:
    asked = [Event(question, None, answer) for question, answer in turns]
    return Record("v", "v", Path("v.mp4"), 30.0, (*events, *asked), "")


def drawn(task, num=60, **options):
    return [TASKS[task](record(**options), np.random.default_rng(seed)) for seed in range(num)]


def test_there_are_the_five_of_lita():
    assert TASKS.keys() == {"dvc", "event_loc", "vidqa", "imgqa", "rtl"}
    assert {len(WORDINGS["when"]) * len(WORDINGS["only_times"])} == {12}
    assert {len(WORDINGS["describe"]) * len(WORDINGS["times_first"])} == {12}


def test_dense_captions_are_in_the_order_of_their_starts():
    turns = [turn for (turn,) in drawn("dvc", 400)]
    answer = "<1.25> <3.00> He falls. <4.00> <9.50> A man {runs} to the left."
    assert {turn.answer for turn in turns} == {answer} and len({turn.question for turn in turns}) == 12


def test_event_localisation_quotes_the_caption_in_small_letters_without_its_full_stop():
    turns = [turn for (turn,) in drawn("event_loc", 600)]
    assert {turn.answer for turn in turns} == {"<4.00> <9.50>", "<1.25> <3.00>"}
    assert all('"a man {runs} to the left"' in t.question for t in turns if t.answer == "<4.00> <9.50>")
    assert all('"he falls"' in t.question for t in turns if t.answer != "<4.00> <9.50>")
    assert len({turn.question for turn in turns}) == 2 * 12


def test_video_questions_are_all_asked_with_the_wish_for_short_answers():
    for first, second in drawn("vidqa"):
        assert (first.answer, second.answer) == ("tired", TURNS[1][1])
        assert first.question.removeprefix("why did he fall ") in WORDINGS["short"]


def test_image_instructions_stay_as_they_are():
    assert drawn("imgqa", 1) == [[Turn(*TURNS[0]), Turn(*TURNS[1])]]


def test_reasoning_asks_one_question_as_it_is():
    assert {turn for (turn,) in drawn("rtl")} == {Turn(*TURNS[0]), Turn(*TURNS[1])}


@pytest.mark.parametrize("task", TASKS)
def test_a_poor_record_is_not_asked_about(task):
    assert drawn(task, 1, events=(), turns=()) == [[]]


def test_names_come_at_their_rates():
    rng, rates = np.random.default_rng(0), {"a": 3, "b": 0, "c": 1.0}
    drawn = Counter(pick_name(rng, rates) for _ in range(4000))
    assert drawn.keys() == {"a", "c"} and abs(drawn["a"] - 3000) < 4 * np.sqrt(4000 * 0.75 * 0.25)
