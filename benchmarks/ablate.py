"""The grid of ablations: variants of the shapes recipe under one budget, seeds, tables and plots.

    make ablate                                # the committed grid; goes on where it was stopped
    make ablate ARGS="--quick"                 # every kind of row once, a few steps each; its numbers say nothing
    make ablate ARGS="--all --seeds 0 1 2"     # every row with three seeds

Models come into ``runs/ablate``, one folder each; rows into ``results/ablate.csv`` as they finish, times of answers,
measured afterwards and alone, into ``results/ablate_speed.csv``; and both into ``docs/experiments``. Rows that are
there are not run again.
"""

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, flock
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from ablations import report, speed, world
from ablations.grid import FRAMES, GRID, QUESTIONS, START, Regime, Row, Variant
from ablations.learner import Learner, begin, build, train
from ablations.scoring import numbers, questions, score, whole_video
from ablations.world import Clips
from harness import ROOT, add_rows, provenance, read_rows
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from timetok.atomic import replacing

KEY = ["experiment", "variant", "seed", "answered_by"]
SPEED_KEY = ["experiment", "variant", "answered_by"]
CLIPS = {
    "train": Clips("train", 0, 1000, 64),
    "test": Clips("test", 2026, 300, 128),
    "long": Clips("shifted", 2026, 100, 64),
}


@dataclass(frozen=True)
class Place:
    """Where things are, and how much of each there is."""

    work: Path
    table: str  # of the CSV, without its suffix: of the committed one a name, of others a path
    regime: Regime
    clips: Mapping[str, Clips]
    features: Path = ROOT / "runs" / "ablate" / "features"


@dataclass(frozen=True)
class Job:
    """A model, and the rows it is scored for."""

    variant: Variant
    seed: int
    rows: tuple[Row, ...]
    budget: int = 1


def jobs_of(
    rows: Iterable[Row], seeds: Sequence[int] | None, done: Set[tuple[str, str, str, str]], regime: Regime
) -> list[Job]:
    """What is left to do, seed by seed in the order of the rows; all of ``seeds``, or as many as each row asks for.

    Rows that are ``done`` have an experiment, a name, a seed and a model; those of another regime are done again.
    """
    jobs: dict[tuple[Variant, int, int], list[Row]] = {}
    for row in rows:
        for seed in range(row.seeds) if seeds is None else seeds:
            model = regime.times(row.budget).digest(row.variant, seed)
            if (row.experiment, row.name, str(seed), model) not in done:
                jobs.setdefault((row.variant, row.budget, seed), []).append(row)
    found = [Job(variant, seed, tuple(of_job), budget) for (variant, budget, seed), of_job in jobs.items()]
    return sorted(found, key=lambda job: job.seed)


def learner_of(variant: Variant, seed: int, place: Place) -> tuple[Learner, float]:
    """A trained learner, read back where it is there, and the minutes of CPU that its training took."""
    folder = folder_of(variant, seed, place)
    clips = world.read(place.clips["train"], place.features)
    learner = build(variant, place.regime, clips, seed)
    if folder.exists():
        with safe_open(folder / "weights.safetensors", "pt") as file:
            minutes = float(file.metadata()["minutes"])
        learner.load(load_file(folder / "weights.safetensors"))
        return learner, minutes
    if variant != START:
        begin(learner, load_file(folder_of(START, 0, place) / "weights.safetensors"))
    start = time.process_time()
    train(learner, variant, place.regime, clips, seed, place.work / "trainer")
    minutes = (time.process_time() - start) / 60
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial:
        partial.mkdir()
        save_file(learner.state(), partial / "weights.safetensors", {"minutes": f"{minutes:.2f}"})
    return learner, minutes


def carry_out(job: Job, place: Place) -> list[dict[str, Any]]:
    """Train a model and score it: a row of the CSV for each of its rows and ways of answering."""
    place = replace(place, regime=place.regime.times(job.budget))
    learner, minutes = learner_of(job.variant, job.seed, place)
    scored: dict[tuple[str, int], Any] = {}
    rows, model = [], {"train_minutes": f"{minutes:.2f}", "model": place.regime.digest(job.variant, job.seed)}
    for row in job.rows:
        asked = row.test, row.frames
        if asked not in scored:
            scored[asked] = score(learner, world.read(place.clips[row.test], place.features), row.frames)
        for way, found in scored[asked].items():
            rows.append(cells(row.experiment, row.name, job.seed, way, found) | model | provenance())
    return rows


def cells(experiment: str, name: str, seed: int, way: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The first columns of a row."""
    shown = {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in found.items()}
    return {"experiment": experiment, "variant": name, "seed": seed, "answered_by": way, **shown}


def add_guess(place: Place) -> None:
    """The row of an answer that needs no model."""
    learner, minutes = learner_of(START, 0, place)
    asked = questions(learner, world.read(place.clips["test"], place.features), FRAMES)
    row = cells("a", "the whole video", 0, "greedy", numbers(asked, whole_video(asked)))
    keep(place, [row | {"train_minutes": f"{minutes:.2f}", "model": "shared start"} | provenance()])


def run(jobs: Sequence[Job], place: Place, workers: int) -> None:
    """Carry out jobs in processes of one thread each; the rows of each come into the CSV together, when it is done."""
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        left = [pool.submit(carry_out, job, place) for job in jobs]
        for each in tqdm(as_completed(left), total=len(left), desc="models"):
            keep(place, each.result())


def keep(place: Place, rows: Sequence[dict[str, Any]]) -> None:
    """Rows into the CSV, all of them or none; several runs, of other experiments, may do so at once."""
    with (place.work / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        add_rows(place.table, rows, key=KEY)


def left_of(rows: Iterable[Row], seeds: Sequence[int] | None, place: Place) -> list[Job]:
    """The jobs of rows that are not in the CSV."""
    done = {(row["experiment"], row["variant"], row["seed"], row["model"]) for row in read_rows(place.table)}
    return jobs_of(rows, seeds, done, place.regime)


TIMED = {"c": (speed.answers, ("index tokens", "greedy")), "f": (speed.prefills, ("32: SlowFast (LITA)", "prefill"))}


def measure(place: Place) -> None:
    """Times of answers by the models that are there, in turns, in this process alone."""
    torch.set_num_threads(1)
    clips = world.read(place.clips["test"], place.features)
    for experiment, (calls_of, baseline) in TIMED.items():
        learners = {}
        for row in (row for row in GRID if row.experiment == experiment):
            scaled = replace(place, regime=place.regime.times(row.budget))
            if folder_of(row.variant, 0, scaled).exists():
                learners[row.name] = learner_of(row.variant, 0, scaled)[0]
        if baseline[0] in learners:
            found = speed.timed(calls_of(learners, clips, FRAMES), baseline)
            told = {"experiment": experiment, "baseline": baseline[0]}
            added = [
                {**told, "variant": name, "answered_by": way, **numbers, **provenance()}
                for (name, way), numbers in found.items()
            ]
            add_rows(f"{place.table}_speed", added, key=SPEED_KEY)


def folder_of(variant: Variant, seed: int, place: Place) -> Path:
    return place.work / "models" / place.regime.digest(variant, seed)


def place_of(quick: bool) -> Place:
    if not quick:
        return Place(ROOT / "runs" / "ablate", "ablate", Regime(), CLIPS)
    work = ROOT / "runs" / "ablate-quick"
    few = {name: replace(clips, num_clips=20) for name, clips in CLIPS.items()}
    return Place(
        work,
        str(work / "ablate"),
        Regime(start_drill=2, start_steps=2, drill=2, steps=2, drill_batch=4, batch=4),
        few,
        work / "features",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all rows with a few steps, into runs/ablate-quick")
    parser.add_argument("--seeds", type=int, nargs="+", help="of every row (default: as many as the grid says)")
    parser.add_argument("--only", nargs="+", choices=[*QUESTIONS], help="experiments, by their letters")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--report", action="store_true", help="only times, tables and plots, from what is there")
    options = parser.parse_args()
    place = place_of(options.quick)
    rows = [row for row in GRID if row.experiment in (options.only or QUESTIONS)]
    seeds = [0] if options.quick and options.seeds is None else options.seeds
    if not options.report:
        for clips in place.clips.values():
            world.fill(clips, place.features, workers=options.workers)
        if jobs := left_of(rows, seeds, place):
            add_guess(place)
            run(jobs, place, options.workers)
    measure(place)
    report.write(place.table, ROOT / "docs" / "experiments" if not options.quick else place.work)


if __name__ == "__main__":
    main()
