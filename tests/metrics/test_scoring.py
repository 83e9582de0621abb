import itertools
import json
import math
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binom, norm

from timetok.errors import ArgumentError, DataError, TimeRangeError
from timetok.metrics import PROTOCOLS, Prediction, Reference, bootstrap, compare, evaluate
from timetok.timegrid import Span


def graded(ious, *, per_video=1, protocol="charades-sta"):
    """A report of answers with the given IoUs, so many about each video."""
    references = [Reference(k, f"v{k // per_video:04}", Span(0, 1), 1.0) for k in range(len(ious))]
    return evaluate([Prediction(k, (0, float(share))) for k, share in enumerate(ious)], references, protocol)


def test_tasks_are_kept_apart():
    references = [Reference("a", "v", Span(0, 4), 8.0), Reference("b", "v", Span(0, 4), 8.0, task="event_loc")]
    report = evaluate([Prediction("a", (0, 4)), Prediction("b", ())], references, "lita-rtl-strict")
    assert report.by_task["rtl"].miou == 1.0 and report.by_task["rtl"].num_samples == 1
    assert report.by_task["event_loc"].miou == 0.0 and report.by_task["event_loc"].values["parsed"] == 0.0
    assert report.miou == 0.5


def test_report_for_people_and_files():
    references = [Reference("a", "v", Span(0, 4), 8.0), Reference("b", "v", Span(0, 4), 8.0, task="event_loc")]
    report = evaluate([Prediction("a", (0, 4)), Prediction("b", (0, 2))], references)
    header, total, *tasks = str(report).splitlines()
    assert header.split() == ["lita-rtl", "mIoU", "R1@0.5", "parsed", "samples", "videos"]
    assert total.split() == ["all", "0.750", "1.000", "1.000", "2", "1"]
    assert [line.split()[0] for line in tasks] == ["event_loc", "rtl"]
    assert len({len(line) for line in str(report).splitlines()}) == 1
    read = json.loads(json.dumps(asdict(report)))
    assert read["protocol"]["name"] == "lita-rtl" and read["by_task"]["rtl"]["values"]["mIoU"] == 1.0
    second = read["per_sample"][1]
    assert (second["question_id"], second["parsed"], second["windows"]) == ("b", True, [{"start": 0.0, "end": 2.0}])
    assert second["measures"] == {"mIoU": 0.5, "R1@0.5": 1.0}


def test_several_answers_to_a_question():
    rules = replace(PROTOCOLS["charades-sta"], tops=(1, 2, 5), thresholds=(0.5,))
    references = [Reference(k, "v", Span(0, 4), 8.0) for k in range(3)]
    seconds = [(0, 4), (5, 8, 0, 3), (5, 8, 6, 8, 0, 2)]
    report = evaluate([Prediction(k, row) for k, row in enumerate(seconds)], references, rules)
    assert [report.values[f"R{top}@0.5"] for top in (1, 2, 5)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert report.miou == pytest.approx(1 / 3)  # of the first windows


def test_ids_must_match():
    references = [Reference(i, "v", Span(0, 4), 8.0) for i in ("a", "b", "b")]
    predictions = [Prediction("c", ()), Prediction("d", ()), Prediction("d", (1, 2))]
    for malformed in ("raise", "count"):  # references of one id are no data set
        with pytest.raises(DataError) as caught:
            evaluate(predictions, references, malformed=malformed)
        told = str(caught.value)
        assert all(
            each in told for each in ("'a' has 0 and 1", "'b' has 0 and 2", "'c' has 1 and 0", "'d' has 2 and 0")
        )
    with pytest.raises(DataError, match="references is empty"):
        evaluate([], [])


def test_no_answer_at_all_is_counted():
    references = [Reference(k, "v", Span(0, 4), 8.0) for k in range(2)]
    for name, expected in (("lita-rtl", 0.5), ("timechat", 0.0), ("time-r1", math.nan)):
        report = evaluate([], references, name, malformed="count")
        assert report.miou == pytest.approx(expected, nan_ok=True) and report.problems["missing"] == [0, 1]
        assert report.values["parsed"] == 0


def test_bad_arguments():
    for name in ("seconds", "scores", "saliency"):
        with pytest.raises(TimeRangeError, match=f"{name} of prediction 'q' must be finite"):
            Prediction("q", **{"seconds": (0, 1), name: (math.nan, 1)})
    with pytest.raises(ArgumentError, match="scores of prediction 'q': expected one for two seconds"):
        Prediction("q", (0, 1, 2, 3), scores=(0.5,))
    with pytest.raises(DataError, match="spans of reference 'q': expected at least one"):
        Reference("q", "v", (), 8.0)
    for duration in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(TimeRangeError, match="duration_seconds of reference 'q'"):
            Reference("q", "v", Span(0, 1), duration)


def test_the_interval_of_a_share_is_binomial():
    num, share = 400, 0.3
    report = graded([1] * 120 + [0] * 280)
    for level in (0.95, 0.8):
        found = bootstrap(report, num_resamples=4000, level=level)["mIoU"]
        ends = (1 - level) / 2, (1 + level) / 2
        assert found == pytest.approx(binom.ppf(ends, num, share) / num, abs=0.005)
        assert found == pytest.approx(norm.ppf(ends, share, (share * (1 - share) / num) ** 0.5), abs=0.005)


def test_videos_are_drawn_not_samples():
    draw = random.Random(0)
    ious = [draw.random() for _ in range(50)]
    often = [share for share in ious for _ in range(10)]
    together, alone = bootstrap(graded(often, per_video=10)), bootstrap(graded(often))
    assert together["mIoU"] == pytest.approx(bootstrap(graded(ious))["mIoU"], rel=1e-12)
    (low, high), (lower, higher) = together["mIoU"], alone["mIoU"]
    assert (high - low) / (higher - lower) == pytest.approx(10**0.5, rel=0.15)


def test_intervals_cover_what_they_should():
    rng, covered, runs = np.random.default_rng(0), 0, 100
    for run in range(runs):
        low, high = bootstrap(graded(rng.uniform(0, 1, 60)), num_resamples=200, seed=run)["mIoU"]
        covered += low <= 0.5 <= high
    assert binom.cdf(covered, runs, 0.94) > 1e-3 and binom.sf(covered, runs, 0.96) > 1e-3


def test_what_has_no_part_has_no_interval():
    report = graded([0.5, 0.7], protocol="qvhighlights")
    intervals = bootstrap(report)
    assert all(map(math.isnan, intervals["mAP long"])) and intervals["mIoU"][0] >= 0.5
    assert "F1" not in bootstrap(graded([1.0, 1.0, 0.0], protocol="dense-captions"))  # which is no average


halves = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=9)


@settings(max_examples=min(settings.default.max_examples, 600))
@given(halves, st.integers(1, 3), st.sampled_from(["charades-sta", "lita-rtl"]))
def test_compare_has_two_sides(rows, per_video, protocol):
    one, other = (graded([row[k] / 8 for row in rows], per_video=per_video, protocol=protocol) for k in (0, 1))
    there, back = compare(one, other, num_resamples=50), compare(other, one, num_resamples=50)
    for name, found in there.items():
        assert found.value == pytest.approx(one.values[name] - other.values[name], abs=1e-12)
        mirrored = back[name]
        assert (found.value, found.low, found.high) == pytest.approx(
            (-mirrored.value, -mirrored.high, -mirrored.low), nan_ok=True
        )
        assert found.p_value == mirrored.p_value and not found.low > found.high
        assert 1 / 51 <= found.p_value <= 1
    for found in compare(one, one, num_resamples=50).values():
        ends = 0 if len({sample.vid for sample in one.per_sample}) > 1 else np.nan  # one video tells no interval
        np.testing.assert_array_equal((found.value, found.low, found.high, found.p_value), (0, ends, ends, 1))


@pytest.mark.parametrize("per_video", [1, 2])
def test_the_p_value_is_that_of_all_swaps(per_video):
    draw, num = random.Random(3), 4000
    ones, others = ([draw.randrange(100) / 100 for _ in range(8 * per_video)] for _ in range(2))
    ones = [min(share + 0.2, 1) for share in ones]
    found = compare(graded(ones, per_video=per_video), graded(others, per_video=per_video), num_resamples=num)["mIoU"]
    less = [a - b for a, b in zip(ones, others, strict=True)]
    videos = [math.fsum(less[k : k + per_video]) for k in range(0, len(less), per_video)]
    swaps = itertools.product((1, -1), repeat=8)
    sums = [abs(sum(sign * video for sign, video in zip(signs, videos, strict=True))) for signs in swaps]
    exact = sum(each >= abs(sum(videos)) - 1e-9 for each in sums) / 2**8
    assert 0.01 < exact < 0.9
    assert found.p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / num) ** 0.5 + 1 / num)


def test_pairs_see_what_single_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 0.9, 80)
    one, other = graded(hard + 0.05), graded(hard + rng.uniform(-0.02, 0.02, 80).clip(-hard))
    (low, _), (_, high) = bootstrap(one)["mIoU"], bootstrap(other)["mIoU"]
    found = compare(one, other)["mIoU"]
    assert low < high and 0 < found.low < 0.05 < found.high + 0.01 and found.p_value == 1 / 2001


def test_questions_are_matched_by_id():
    references = [Reference(k, f"v{k}", Span(0, 1), 1.0) for k in range(5)]
    predictions = [Prediction(k, (0, k / 5)) for k in range(5)]
    one = evaluate(predictions, references, "charades-sta")
    turned = evaluate(predictions, references[::-1], "charades-sta")
    assert compare(one, turned)["mIoU"].value == compare(one, turned)["mIoU"].high == 0


def test_what_either_system_drops_is_left_out():
    references = [Reference(k, f"v{k}", Span(0, 1), 1.0) for k in range(3)]
    one, other = (
        evaluate([Prediction(k, row) for k, row in enumerate(rows)], references, "time-r1")
        for rows in ([(0, 1), (0, 0.5), ()], [(0, 0.5), (), (0, 1)])
    )
    assert compare(one, other)["mIoU"].value == 0.5  # of the first question alone


def test_only_what_is_comparable_is_compared():
    one = graded([0.5, 0.7])
    for other in (graded([0.5]), graded([0.5, 0.7], protocol="lita-rtl")):
        with pytest.raises(ArgumentError, match="other: expected a report of the same protocol and questions"):
            compare(one, other)


def test_the_same_answer_twice_is_one():
    """As two runs of one evaluation in one folder leave it."""
    report = evaluate([Prediction("a", (0, 4))] * 2, [Reference("a", "v", Span(0, 4), 8.0)], malformed="count")
    assert report.miou == 1.0 and not any(report.problems.values())


def test_what_only_one_system_was_scored_on_is_not_compared():
    """HIT@1 is there where some answer has saliency."""
    references = [Reference(k, f"v{k}", Span(0, 4), 8.0, saliency=((4.0,),)) for k in range(3)]
    shown = [Prediction(k, (0, 4), saliency=(1.0,)) for k in range(3)]
    plain = [Prediction(k, (0, 2)) for k in range(3)]
    one, other = (evaluate(answers, references, "qvhighlights") for answers in (shown, plain))
    found = compare(one, other, num_resamples=50)
    assert "HIT@1" in one.values and "HIT@1" not in other.values and "HIT@1" not in found
    assert found["mIoU"].value == found["mIoU"].low == found["mIoU"].high == 0.5
    assert np.isnan([found["mAP long"].value, found["mAP long"].low]).all()  # no window lasts so long


def test_windows_may_be_pairs() -> None:
    pairs = Reference("a", "v", [(4, 6), (8.0, 9.0)], 10.0)  # type: ignore[arg-type]
    assert pairs.spans == (Span(4, 6), Span(8, 9))
    assert evaluate([Prediction("a", (4.0, 6.0))], [pairs]).miou == 1.0
