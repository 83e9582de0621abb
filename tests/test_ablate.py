"""The grid of ablations: its names, one row end to end on a handful of clips, what a killed one leaves, its tables."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import ablate
from ablations import grid, learner, report, speed, world
from ablations.grid import DEFAULT, GRID, QUESTIONS, START, Regime, Row
from ablations.reducers import reducer_of
from ablations.scoring import ways_of
from harness import read_rows

TINY = Regime(
    width=24, layers=1, heads=2, drill_batch=2, batch=2, turns=2, start_drill=1, start_steps=1, drill=1, steps=1
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Clips of few frames, encoded in this process."""
    work = tmp_path_factory.mktemp("ablate")
    clips = {name: replace(each, num_clips=3, num_frames=32) for name, each in ablate.CLIPS.items()}
    found = ablate.Place(work, str(work / "rows"), TINY, clips, work)
    features = world.encode([scene for each in clips.values() for scene in each.scenes()], 32)
    for number, each in enumerate(clips.values()):
        world.write(each, features[3 * number : 3 * number + 3], work)
    ablate.learner_of(START, 0, found)
    return found


def test_names_are_unique_and_every_question_is_asked():
    names = [(row.experiment, row.name) for row in GRID]
    assert len(set(names)) == len(names)
    assert {row.experiment for row in GRID} == QUESTIONS.keys()


def test_rows_of_one_variant_share_a_model():
    rows = [Row("a", "one", seeds=2), Row("b", "two"), Row("b", "three", replace(DEFAULT, marks=10))]
    jobs = ablate.jobs_of(rows, None, set(), TINY)
    assert [(job.seed, [row.name for row in job.rows]) for job in jobs] == [
        (0, ["one", "two"]),
        (0, ["three"]),
        (1, ["one"]),
    ]
    assert len(ablate.jobs_of(rows, [0, 1, 2], set(), TINY)) == 6
    done = {(row.experiment, row.name, "0", TINY.digest(row.variant, 0)) for row in rows[:2]}
    assert [job.seed for job in ablate.jobs_of(rows, None, done, TINY)] == [0, 1]
    assert len(ablate.jobs_of(rows, None, done, replace(TINY, steps=2))) == 3  # of another regime they are to do


def test_models_of_other_settings_have_other_names():
    variants = {row.variant for row in GRID}
    names = {TINY.digest(variant, seed) for variant in variants for seed in range(3)}
    assert len(names) == 3 * len(variants)
    longer = replace(TINY, steps=2)
    assert longer.digest(DEFAULT, 0) != TINY.digest(DEFAULT, 0)
    assert longer.digest(START, 0) == TINY.digest(START, 0)  # which does not take those steps


def test_a_row_runs_end_to_end_and_is_not_run_again(place, monkeypatch):
    place = replace(place, table=str(place.work / "once"))
    (job,) = ablate.jobs_of([Row("a", "one"), Row("g", "eight", frames=8)], None, set(), TINY)
    ablate.keep(place, ablate.carry_out(job, place))
    rows = read_rows(place.table)
    assert [(row["variant"], row["answered_by"]) for row in rows] == [
        (name, way) for name in ("one", "eight") for way in ("greedy", "posterior")
    ]
    assert [float(row["visual_tokens"]) for row in rows] == [32, 32, 24, 24]  # a frame each, and 4 x 4 of slow ones
    assert all(0 <= float(row["miou"]) <= 1 and row["device"] for row in rows)
    assert ablate.left_of([Row("a", "one"), Row("g", "eight", frames=8)], None, place) == []
    monkeypatch.setattr(ablate, "train", lambda *_: pytest.fail("trained again"))
    again, minutes = ablate.learner_of(DEFAULT, 0, place)
    assert minutes == float(rows[0]["train_minutes"])
    assert not again.adapter.training


def test_a_killed_row_leaves_nothing(place, monkeypatch):
    place = replace(place, table=str(place.work / "killed"))
    (job,) = ablate.jobs_of([Row("b", "gaussian", replace(DEFAULT, loss="gaussian"))], None, set(), TINY)

    def die(*_):
        raise KeyboardInterrupt

    before = sorted(place.work.glob("models/*"))
    with monkeypatch.context() as patch:
        patch.setattr(ablate, "save_file", die)
        with pytest.raises(KeyboardInterrupt):
            ablate.carry_out(job, place)
    assert sorted(place.work.glob("models/*")) == before
    with monkeypatch.context() as patch:
        patch.setattr(ablate, "score", die)
        with pytest.raises(KeyboardInterrupt):
            ablate.carry_out(job, place)
    assert read_rows(place.table) == []
    assert len(ablate.left_of(job.rows, None, place)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": "head"},
        {"tokens": "seconds", "layout": (("fast", False),)},
        {"loss": "two-hot", "marks": 10},
        {"reducer": "static dropped", "kept": 2},
        {"reducer": "merged", "kept": 4},
        {"mask": "frame-block-causal", "rope": (1, 1)},
        {"strategy": "S2-S3-IV", "videos": 0.5, "frames": (4, 8)},
    ],
    ids=str,
)
def test_every_kind_of_variant_is_trained_and_scored(place, changes):
    place = replace(place, table=str(place.work / "kinds"))
    job = ablate.Job(replace(DEFAULT, **changes), 0, (Row("a", "one", frames=8),))
    assert {row["answered_by"] for row in ablate.carry_out(job, place)} == {
        *ways_of(ablate.learner_of(job.variant, 0, place)[0])
    }


def test_a_variant_begins_at_the_shared_start(place):
    begun, _ = ablate.learner_of(START, 0, place)
    clips = world.read(place.clips["train"], place.features)
    other = learner.build(replace(DEFAULT, rows="random"), TINY, clips, 7)
    random = other.adapter.lm.get_input_embeddings().weight.clone()
    learner.begin(other, begun.state())
    rows, words = other.adapter.lm.get_input_embeddings().weight, other.processor.video_token_id
    assert torch.equal(rows[:words], begun.adapter.lm.get_input_embeddings().weight[:words])
    assert torch.equal(rows[words:], random[words:])  # time tokens are not of the start
    assert torch.equal(other.adapter.projector.weight, begun.adapter.projector.weight)


def test_strategies_see_the_same_number_of_pictures_and_videos():
    regime = Regime(drill=8, steps=8)
    for share in (1.0, 0.25):
        counts = []
        for strategy in ("S4-V", "S3-IV", "S2-S3-IV"):
            stages = regime.stages(replace(DEFAULT, strategy=strategy, videos=share))
            stills = sum(stage.steps * stage.stills for stage in stages)
            counts.append((stills, sum(stage.steps for stage in stages) - stills))
            assert stages[0].trains == "projector"
        assert counts == [(6, 16 * share)] * 3  # two steps of pictures in each of three stages


def test_reducers_keep_what_they_say(place):
    clips = world.read(place.clips["test"], place.features)
    features, times = clips[0].features[:16].float(), torch.arange(16.0)
    for row in GRID:
        if row.experiment == "f" and not row.name.endswith("static dropped"):
            tokens, seconds = reducer_of(row.variant, clips)(features, times)
            assert len(tokens) == len(seconds) == int(row.name.partition(":")[0]), row.name
    drop = replace(DEFAULT, reducer="static dropped", kept=4)
    counts = [len(reducer_of(drop, [clip])(_whole(clip), times)[0]) for clip in clips]
    assert counts == pytest.approx([64] * 3, abs=2)  # its threshold is set on the clip itself; ties, and a quantile


def _whole(clip):
    return clip.features[torch.from_numpy(learner.spread(len(clip.features), 16))].float()


def test_tables_hold_means_and_deviations():
    assert report.mean_sd([0.4, 0.5, 0.6]) == "0.500 ± 0.100"  # sqrt((0.01 + 0 + 0.01) / 2)
    assert report.mean_sd([0.25]) == "0.250"
    name = next(row.name for row in GRID if row.experiment == "d")
    told = {"experiment": "d", "variant": name, "answered_by": "greedy"}
    found = [told | dict.fromkeys(report.COLUMNS.values(), str(value)) for value in (0.2, 0.4)]
    first, second, *_ = report.lines("d", found, [])
    assert first == [name, "2", *["0.300 ± 0.141"] * 4]  # sqrt(0.02)
    assert second[1:3] == ["0", report.MISSING] and len(second) == len(first)


def test_times_are_ratios_within_a_round():
    calls = {("one", "way"): lambda _: None, ("other", "way"): lambda _: None}
    found = speed.timed(calls, ("one", "way"), rounds=5)
    assert float(found["one", "way"]["ratio"]) == 1.0
    assert found["other", "way"]["rounds"] == 5


def test_a_page_is_made_of_the_rows_alone(tmp_path):
    row = next(row for row in GRID if row.experiment == "a")
    told = {"experiment": "a", "variant": row.name, "seed": "0", "answered_by": "greedy", "train_minutes": "1.5"}
    told |= dict.fromkeys(report.COLUMNS.values(), "0.5") | {"model": "m"}
    ablate.add_rows(str(tmp_path / "rows"), [told | ablate.provenance()], key=ablate.KEY)
    report.write(str(tmp_path / "rows"), tmp_path / "page")
    page = (tmp_path / "page" / "index.md").read_text()
    assert f"| {row.name} | 1 | 0.500 |" in page and report.MISSING in page
    assert [path.name for path in (tmp_path / "page").glob("*.png")] == ["a.png"]
    assert grid.QUESTIONS["h"] in page
