"""Every protocol against one slow scorer, and what sets one apart from another on the same answers."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from oracles import score_slowly
from timetok.errors import ArgumentError
from timetok.metrics import PROTOCOLS, Prediction, Protocol, Reference, evaluate, find_protocol
from timetok.timegrid import Span

# Half seconds, few enough that no IoU is a tie of its second decimal that floats cannot hold: below 40 of them.
annotated = st.integers(0, 30).map(lambda n: n / 2)
answered = st.integers(-4, 34).map(lambda n: n / 2)
ranks = st.sampled_from((0.0, 0.5, 1.0))
named = sorted(PROTOCOLS)


@st.composite
def answers(draw):
    """Some questions about a few videos, with several windows on either side, ties, and answers that are missing."""
    predictions, references = [], []
    for key in range(draw(st.integers(1, 6))):
        spans = draw(st.lists(st.tuples(annotated, annotated).map(sorted), min_size=1, max_size=3))
        clips = draw(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=3))
        video, duration = f"v{draw(st.integers(0, 2))}", draw(st.sampled_from((8.0, 12.5, 15.0)))
        references.append(Reference(key, video, [Span(*span) for span in spans], duration, saliency=tuple(clips)))
        if draw(st.integers(0, 5)):
            seconds = draw(st.lists(answered, max_size=8))
            scores = draw(st.lists(ranks, min_size=4, max_size=4))[: len(seconds) // 2] if draw(st.booleans()) else ()
            saliency = draw(st.lists(ranks, min_size=len(clips), max_size=len(clips)))
            predictions.append(Prediction(key, seconds, scores, saliency, draw(st.booleans())))
    return predictions, references


def check(predictions, references, rules):
    exact = score_slowly(predictions, references, rules)
    wanted = {name: math.nan if value is None else float(value) for name, value in exact.items()}
    found = evaluate(predictions, references, rules, malformed="count").values
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", named)
@settings(max_examples=min(settings.default.max_examples // 3, 600))
@given(answers())
def test_the_named_ones(name, data):
    check(*data, PROTOCOLS[name])


protocols = st.builds(
    Protocol,
    name=st.just("any"),
    thresholds=st.just((0.3, 0.5, 0.7)),
    strict=st.booleans(),
    tops=st.sampled_from([(1,), (1, 5), (2,)]),
    max_windows=st.sampled_from([None, 1, 2]),
    truths=st.sampled_from(["first", "best", "union", "hull", "match"]),
    decimals=st.sampled_from([None, 0, 2]),
    clamp=st.booleans(),
    inverted=st.sampled_from(["miss", "sort"]),
    unparsed=st.sampled_from(["zero", "whole", "drop"]),
    lost_last=st.booleans(),
    iou_decimals=st.sampled_from([None, 2]),
    average=st.sampled_from(["sample", "video"]),
    measures=st.just(("mAP", "HIT@1", "detection", "count")),
)


@settings(max_examples=min(settings.default.max_examples, 3000))
@given(answers(), protocols)
def test_all_others(data, rules):
    if rules.truths == "match":  # a mean of IoUs: floats cannot tell whether it is a level, or a tie of decimals
        rules = replace(rules, thresholds=(0.3137, 0.7137), iou_decimals=None)
    check(*data, rules)


@pytest.mark.parametrize("name", named)
def test_seconds_of_any_kind(name):
    draw = random.Random(0)
    predictions, references = [], []
    for key in range(40):
        duration = draw.uniform(5, 100)
        spans = [Span(*sorted((draw.uniform(0, duration), draw.uniform(0, duration)))) for _ in range(key % 2 + 1)]
        references.append(Reference(key, f"v{draw.randrange(9)}", spans, duration))
        seconds = [draw.uniform(-5, duration + 5) for _ in range(draw.randrange(7))]
        predictions.append(Prediction(key, seconds, unfinished=draw.random() < 0.2))
    check(predictions, references, PROTOCOLS[name])


@pytest.mark.parametrize("name", named)
@settings(max_examples=min(settings.default.max_examples // 6, 600))
@given(answers(), st.randoms(use_true_random=False))
def test_no_order_matters(name, data, draw):
    predictions, references = data
    whole = evaluate(predictions, references, name, malformed="count")
    draw.shuffle(predictions)
    assert repr(evaluate(predictions, references, name, malformed="count")) == repr(whole)
    draw.shuffle(references)
    other = evaluate(predictions, references, name, malformed="count")
    assert other.values == pytest.approx(whole.values, rel=1e-12, nan_ok=True)
    assert [sample.question_id for sample in other.per_sample] == [one.question_id for one in references]
    assert sorted(map(repr, other.per_sample)) == sorted(map(repr, whole.per_sample))


# What public evaluations disagree about: the same answers, two rules, two numbers.

PLAIN = PROTOCOLS["charades-sta"]


def score(rules, measure, *rows):
    """One measure of answers (seconds) to windows (spans), each with a video of its own, 10 s long if not said."""
    keys = range(len(rows))
    predictions = [Prediction(key, rows[key][0]) for key in keys]
    references = [Reference(key, f"v{key}", [Span(*span) for span in rows[key][1]], 10.0) for key in keys]
    return evaluate(predictions, references, rules).values[measure]


HALF = ((0, 5), [(0, 10)])
TWO_WINDOWS = ((8, 10), [(0, 2), (8, 10)])
APART = ((0, 1, 9, 10), [(0, 10)])
FAILED = ((), [(0, 5)]), ((0, 5), [(0, 5)])


@pytest.mark.parametrize(
    ("rows", "measure", "sides"),
    [
        ([HALF], "R1@0.5", {"charades-sta": 1, "unitime": 0, "llava-st": 0}),  # reaches 0.5, is not above it
        ([HALF], "precision", {"dense-captions": 1 / 4}),
        ([HALF], "precision", {replace(PROTOCOLS["dense-captions"], strict=False): 2 / 4}),
        ([((0, 4.96), [(0, 10)])], "R1@0.5", {"charades-sta": 0, "vtimellm": 1}),  # 0.496 becomes 0.5
        ([((0, 4.94), [(0, 10)])], "R1@0.5", {"charades-sta": 0, "vtimellm": 0}),
        ([((2.4, 6.4), [(2, 6)])], "mIoU", {"charades-sta": 3.6 / 4.4, "timelens": 1}),  # to whole seconds
        (FAILED, "mIoU", {"lita-rtl": (0.5 + 1) / 2, "timechat": (0 + 1) / 2, "time-r1": 1}),
        (FAILED, "mIoU", {"nemo-rtl": 0.75, "lita-rtl-strict": 0.5}),
        ([TWO_WINDOWS], "mIoU", {"charades-sta": 0, "qvhighlights": 1}),  # the first, the best
        ([TWO_WINDOWS], "mIoU", {replace(PLAIN, truths="union"): 2 / 4, replace(PLAIN, truths="hull"): 2 / 10}),
        ([TWO_WINDOWS], "mIoU", {replace(PLAIN, truths="match"): 1 / 2}),
        ([APART], "mIoU", {"charades-sta": 1 / 10, replace(PLAIN, truths="union"): 2 / 10}),
        ([APART], "mIoU", {replace(PLAIN, truths="hull"): 1, replace(PLAIN, truths="match"): 1 / 10 / 2}),
        ([((6, 2), [(2, 6)])], "mIoU", {"lita-rtl": 1, "charades-sta": 0}),  # sorted or not
        ([((5, 15), [(5, 10)])], "mIoU", {"lita-rtl": 1, "charades-sta": 0.5}),  # clamped or not
    ],
)
def test_one_set_of_answers_has_several_numbers(rows, measure, sides):
    for rules, expected in sides.items():
        assert score(rules, measure, *rows) == pytest.approx(expected, rel=1e-12), rules


def test_videos_weigh_the_same_or_samples_do():
    references = [Reference(key, "long" if key < 3 else "short", Span(0, 4), 8.0) for key in range(4)]
    predictions = [Prediction(key, (0, 4) if key < 3 else (4, 8)) for key in reversed(range(4))]
    for name, expected in (("lita-rtl", 0.5), ("lita-rtl-strict", 0.5), ("nemo-rtl", 0.75), ("charades-sta", 0.75)):
        report = evaluate(predictions, references, name)
        assert (report.miou, report.values["R1@0.5"]) == (expected, expected)
        assert (report.num_samples, report.num_videos, report.values["parsed"]) == (4, 2, 1.0)


def test_the_last_token_is_lost_or_not():
    reference = [Reference("q", "v", Span(2, 4), 8.0)]
    for unfinished, name, expected in (
        (True, "lita-rtl", 2 / 8),  # one moment is left, which is as good as none
        (False, "lita-rtl", 1.0),
        (True, "lita-rtl-strict", 1.0),
    ):
        report = evaluate([Prediction("q", (2, 4), unfinished=unfinished)], reference, name)
        assert (report.miou, report.values["parsed"]) == (expected, expected == 1)
    three = evaluate([Prediction("q", (2, 4, 6), unfinished=True)], reference)
    assert three.miou == 1.0  # what is lost was not needed


# The evaluations themselves, by hand.


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((2, 6), 1.0),
        ((6, 2), 1.0),  # sorted
        ((2, 6, 0, 1), 1.0),  # only the first two
        ((-3, 6), 4 / 6),  # clamped to [0, 6]
        ((4, 99), 2 / 6),  # clamped to [4, 8]
        ((2.004, 5.996), 1.0),  # moments have two decimals
        ((), 4 / 8),  # the whole video
        ((3,), 4 / 8),
        ((3, 3), 0.0),
    ],
)
def test_lita_reads_two_moments(seconds, expected):
    report = evaluate([Prediction("q", seconds)], [Reference("q", "v", Span(2, 6), 8.0)])
    assert report.miou == pytest.approx(expected, rel=1e-15)


def test_litas_whole_video_is_not_rounded():
    report = evaluate([Prediction("q", ())], [Reference("q", "v", Span(0, 8.004), 8.004)])
    assert report.miou == 1.0 and report.per_sample[0].windows == (Span(0, 8.004),)


def test_lita_takes_means_of_videos():
    references = [Reference(k, "v" if k < 2 else "w", Span(0, 5), 10.0) for k in range(3)]
    predictions = [Prediction(0, (5, 0)), Prediction(1, (0, 20)), Prediction(2, (4, 6))]  # IoU 1, 0.5 and 1/6
    report = evaluate(predictions, references)
    assert report.miou == pytest.approx((0.75 + 1 / 6) / 2) and report.values["R1@0.5"] == 0.5


@pytest.mark.parametrize(("seconds", "parsed"), [((), False), ((3,), False), ((2, 6), True)])
def test_strict_gives_nothing_for_nothing(seconds, parsed):
    report = evaluate([Prediction("q", seconds)], [Reference("q", "v", Span(2, 6), 8.0)], "lita-rtl-strict")
    assert (report.miou, report.values["parsed"], report.per_sample[0].parsed) == (float(parsed), float(parsed), parsed)


def highlights(*rows):
    """QVHighlights' averages for rows of (ranked windows, annotated windows)."""
    predictions = [Prediction(k, [moment for span in rows[k][0] for moment in span]) for k in range(len(rows))]
    references = [Reference(k, f"v{k}", [Span(*span) for span in rows[k][1]], 150.0) for k in range(len(rows))]
    return evaluate(predictions, references, "qvhighlights").values


def test_qvhighlights_ranks_windows():
    values = highlights(([(30, 40), (0, 20)], [(0, 20), (30, 44)]))
    assert (values["R1@0.5"], values["R1@0.7"]) == (1, 1) and values["mIoU"] == 10 / 14  # the nearest of both
    assert values["mAP"] == pytest.approx((5 * 1 + 5 * 0.5 * 0.5) / 10)  # up to .7 both are found, then the second only
    assert values["count"] == 1


def test_qvhighlights_reads_ten_windows():
    wrong = [(100 + k, 101 + k) for k in range(9)]
    assert highlights(([*wrong, (0, 20)], [(0, 20)]))["mAP"] == pytest.approx(1 / 10)
    assert highlights(([*wrong, (90, 91), (0, 20)], [(0, 20)]))["mAP"] == 0


def test_qvhighlights_has_ranges_of_length():
    rows = [([(0, length)], [(0, length)]) for length in (10, 10.5, 30, 30.5)]
    missed = ([(100, 110)], [(0, 5), (50, 90)])  # short and long, not middle
    values = highlights(*rows, missed)
    assert [values[f"mAP {length}"] for length in ("short", "middle", "long")] == [1 / 2, 1, 1 / 2]
    assert values["mAP"] == 4 / 5
    assert math.isnan(highlights(rows[0])["mAP long"])
    both = highlights(([(0, 10), (20, 60)], [(0, 10), (20, 60)]))  # answers of other lengths stay in the ranking
    assert (both["mAP short"], both["mAP long"]) == (1, 1 / 2)


def test_qvhighlights_asks_three_annotators():
    saliency = ((0, 0, 4), (3, 3, 3))
    references = [Reference(k, "v", Span(0, 4), 8.0, saliency=saliency * (k < 3)) for k in range(4)]
    clips = [(0.9, 0.1), (0.1, 0.9), (), (0.9, 0.1)]  # a hit, a miss, none given, none annotated
    report = evaluate([Prediction(k, (0, 4), saliency=clips[k]) for k in range(4)], references, "qvhighlights")
    assert report.values["HIT@1"] == pytest.approx(1 / 3)


def test_dense_captions_are_detected():
    rows = [((0, 10, 20, 26), [(0, 10), (20, 30), (50, 60)]), ((0, 10), [(0, 10)])]  # IoUs of 1, 0.6 and 1
    precision, recall = ((2 + 2 + 1 + 1) / 8 + 1) / 2, ((2 + 2 + 1 + 1) / 12 + 1) / 2
    f1 = 2 * precision * recall / (precision + recall)  # of the means, not the mean of F1s
    for measure, expected in (("precision", precision), ("recall", recall), ("F1", f1), ("count", 0.5)):
        assert score("dense-captions", measure, *rows) == pytest.approx(expected)
    assert score("dense-captions", "F1", ((), [(0, 1)])) == 0


def test_lists_become_tuples():
    assert Protocol(name="mine", thresholds=[0.5], tops=[1, 5]).thresholds == (0.5,)


def test_choices_are_checked():
    with pytest.raises(ArgumentError, match=r"protocol must be one of \['activitynet-captions', .* got 'rtl'"):
        find_protocol("rtl")
    assert find_protocol(PLAIN) is PLAIN and find_protocol("charades-sta") is PLAIN
    for choice in ({"truths": "all"}, {"inverted": ""}, {"unparsed": 0}, {"average": "task"}, {"measures": ("map",)}):
        ((name, value),) = choice.items()
        value = value[0] if name == "measures" else value
        with pytest.raises(ArgumentError, match=f"{name} must be one of .* got {value!r}"):
            Protocol(name="mine", **choice)
