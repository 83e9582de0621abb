"""Rewards: the numbers of the spans that an answer holds, in TRL's signature."""

import pytest
from hypothesis import given, strategies as st

from real_tokenizers import byte_bpe
from timetok import Span, TimeTokenizer
from timetok.metrics import iou, union_iou
from timetok.recipes.rewards import temporal_iou, well_formed

DURATION = 99.0  # mark k of 100 stands at k seconds


@pytest.fixture(scope="module", params=["index", "seconds"])
def tt(request, tmp_path_factory):
    bare = byte_bpe(tmp_path_factory.mktemp("tokenizer"))
    return TimeTokenizer.wrap(bare, T=100) if request.param == "index" else TimeTokenizer.wrap(bare, codec="seconds")


def ids_of(tt, *answers):
    """Ids of answers that name moments as <12.3>."""
    return [tt(answer, DURATION, add_special_tokens=False)["input_ids"] for answer in answers]


def columns(rows, spans=((10.0, 20.0),)):
    return {"prompts": ["?"] * rows, "completions": [""] * rows, "spans": [spans] * rows, "duration": [DURATION] * rows}


def test_temporal_iou_is_that_of_the_spans_in_the_answer(tt):
    ids = ids_of(tt, "<10> <20>", "From <10> to <15>.", "<20> <10>", "never", "<0> <5> <10> <20>")
    assert temporal_iou(tt)(completion_ids=ids, **columns(5)) == [1.0, 0.5, 0.0, 0.0, pytest.approx(10 / 15)]


def test_several_true_spans_are_one_cover(tt):
    ids = ids_of(tt, "<10> <20> <30> <40>", "<10> <40>", "<30> <40>")
    found = temporal_iou(tt)(completion_ids=ids, **columns(3, [(10.0, 20.0), (30.0, 40.0)]))
    assert found == pytest.approx([1.0, 20 / 30, 10 / 20])
    assert temporal_iou(tt)(completion_ids=ids[2:], **columns(1, (30.0, 40.0))) == [1.0]  # one alone may stand bare
    assert temporal_iou(tt)(completion_ids=ids[2:], **columns(1, [])) == [0.0]  # nothing was to be found


def test_well_formed_answers_are_spans_alone(tt):
    ids = ids_of(tt, "<10> <20>", " <10> <20>", "<20> <10>", "From <10> to <20>", "<10>", "", "<1> <2> <3> <4>")
    assert well_formed(tt)(completion_ids=ids, **columns(7)) == [1, 1, 0, 0, 0, 0, 0]
    assert well_formed(tt, min_spans=0, max_spans=None)(completion_ids=ids, **columns(7)) == [1, 1, 0, 0, 0, 1, 1]
    eos = [[*ids[0], tt.tokenizer.eos_token_id]]
    assert well_formed(tt)(completion_ids=eos, **columns(1)) == [1]


whole = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda pair: Span(*map(float, sorted(pair))))


@given(st.lists(whole, max_size=4), st.lists(whole, max_size=4))
def test_union_iou_is_the_share_of_cells(a, b):
    cells = [{k for span in spans for k in range(int(span.start), int(span.end))} for spans in (a, b)]
    both, either = len(cells[0] & cells[1]), len(cells[0] | cells[1])
    assert union_iou(a, b) == pytest.approx(both / either if either else 0.0)
    for one in a:
        assert union_iou([one], b[:1]) == pytest.approx(iou(one, b[0]) if b else 0.0)
