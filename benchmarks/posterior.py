"""The span posterior against greedy decoding, free-running, on the shapes recipe: three seeds at T = 10, 25 and 100.

    python benchmarks/posterior.py             # minutes where `make ablate` has trained; resumes

The models are those of `make ablate`, experiment b, trained where they are missing; two questions about each clip.
The bundled model, which sees 100 frames and is better, is measured beside them.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import ablate
import numpy as np
import torch
from ablations import scoring, world
from ablations.grid import FRAMES, GRID
from harness import ROOT, add_rows, markdown, provenance, read_rows, write_between

from shapes_world.scenes import write_dataset
from timetok import Span
from timetok.decoding import SpanPosterior, span_distribution
from timetok.lita.answer import Localizer
from timetok.metrics import iou
from timetok.recipes.evaluate import ask_all, read_questions

CLIPS_SEED = 2026  # of `make bench`
TOP_STARTS = 100  # all of them: 40 cover .89 to .94 of what models this small believe at T = 100
TRAINED = f"{FRAMES} frames, 200 steps"


class Asked(NamedTuple):
    """A question's true span, what is said first (None: no span), and what is believed."""

    truth: Span
    greedy: Span | None
    posterior: SpanPosterior


def trained(marks: int, seed: int) -> list[Asked]:
    """Answers of a model of the grid of ablations, which is trained unless it is there."""
    place = ablate.place_of(quick=False)
    for clips in (place.clips["train"], place.clips["test"]):
        world.fill(clips, place.features, workers=2)
    variant = next(row.variant for row in GRID if (row.experiment, row.name) == ("b", f"T = {marks}, plain"))
    learner, _ = ablate.learner_of(variant, seed, place)
    tt, found = learner.processor.tt, []
    questions = scoring.questions(learner, world.read(place.clips["test"], place.features), FRAMES)
    for k in range(0, len(questions), scoring.BATCH):
        some = questions[k : k + scoring.BATCH]
        said, prompts = scoring.greedy(learner, some), scoring.prompts(learner, some)
        durations = [each.duration_seconds for each in some]
        believed = span_distribution(
            learner.adapter, prompts, tt, durations=durations, top_starts=min(TOP_STARTS, marks)
        )
        found += map(Asked, (each.truth for each in some), (answer.span for answer in said), believed)
    return found


def bundled() -> list[Asked]:
    """Answers of the bundled model to the questions of `make bench`."""
    clips = ROOT / "runs" / "table" / "test"
    write_dataset(clips, num_clips=300, split="test", seed=CLIPS_SEED, workers=2)
    localizer, questions, found = Localizer.load(), read_questions(clips), []
    tt = localizer.processor.tt
    space = tt.tokenizer.encode(" ", add_special_tokens=False)  # answers of LITA are written " <t1> <t2>"
    frames = {path: localizer.read(path) for path in dict.fromkeys(question.path for question in questions)}
    videos = {path: (localizer.encode(each), each.duration_seconds) for path, each in frames.items()}
    for question, said in zip(questions, ask_all(localizer, questions), strict=True):
        features, duration = videos[question.path]
        batch = localizer.processor.prompts(
            [localizer.processor.prompt(question.text)], videos=[features], trusted=False
        )
        ids = torch.cat([batch["input_ids"], torch.tensor([space])], 1)
        inputs = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        options = {"durations": [duration], "between_ids": space, "top_starts": TOP_STARTS}
        (believed,) = span_distribution(localizer.model, inputs, tt, **options)
        span = Span(*sorted(said.times_seconds[:2])) if len(said.times_seconds) > 1 else None
        found.append(Asked(question.reference.spans[0], span, believed))
    return found


def measure(asked: Sequence[Asked], name: str, marks: int, seed: int) -> dict[str, object]:
    """One row: the mean IoU of what is said, of the best span between marks, and of that moved between them."""
    best = [each.posterior.best() for each in asked]
    moved = [each.posterior.refined(found.span) for each, found in zip(asked, best, strict=True)]
    truths = [each.truth for each in asked]
    reached = np.array([iou(found.span, truth) for found, truth in zip(best, truths, strict=True)])
    greedy = float(np.mean([iou(each.greedy, each.truth) if each.greedy else 0.0 for each in asked]))
    sure = np.array([found.confidence for found in best])
    numbers = {
        "greedy_miou": greedy,
        "posterior_miou": float(reached.mean()),
        "gain": float(reached.mean()) - greedy,
        "refined_miou": float(np.mean([iou(span, truth) for span, truth in zip(moved, truths, strict=True)])),
        "mean_confidence": float(sure.mean()),
        "calibration_error": scoring.calibration_error(sure, reached),
        "rank_correlation": scoring.rank_correlation(sure, reached),
        "covered": float(np.mean([each.posterior.covered for each in asked])),
    }
    shown = {key: f"{value:.4f}" for key, value in numbers.items()}
    counted = {"top_starts": TOP_STARTS, "questions": len(asked)}
    return {"model": name, "marks": marks, "seed": seed, **shown, **counted, **provenance()}


def table() -> str:
    """The CSV as Markdown: means and ranges over seeds."""
    header = ["model", "T", "seeds", "greedy mIoU", "posterior", "gain", "between marks", "confidence"]
    header += ["calibration error", "rank corr."]
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in read_rows("posterior"):
        groups.setdefault((row["model"], row["marks"]), []).append(row)
    lines = []
    for (model, marks), group in sorted(groups.items(), key=lambda item: (item[0][0], int(item[0][1]))):
        values = {key: [float(row[key]) for row in group] for key in list(group[0])[3:10]}
        gain = f"{np.mean(values['gain']):+.3f} ({min(values['gain']):+.3f} to {max(values['gain']):+.3f})"
        means = {key: f"{np.mean(found):.3f}" for key, found in values.items()}
        columns = ("refined_miou", "mean_confidence", "calibration_error", "rank_correlation")
        shown = [means["greedy_miou"], means["posterior_miou"], gain, *(means[key] for key in columns)]
        lines.append([model, marks, str(len(group)), *shown])
    return markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marks", type=int, nargs="+", default=[10, 25, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    key = ["model", "marks", "seed"]
    done = {tuple(row[name] for name in key) for row in read_rows("posterior")}  # remove the CSV to measure again
    if ("bundled", "100", "0") not in done:
        add_rows("posterior", [measure(bundled(), "bundled", 100, 0)], key=key)
    for seed, marks in product(options.seeds, options.marks):
        if (TRAINED, str(marks), str(seed)) not in done:
            add_rows("posterior", [measure(trained(marks, seed), TRAINED, marks, seed)], key=key)
    write_between(ROOT / "docs" / "time.md", "posterior table", table())
    print(table())


if __name__ == "__main__":
    main()
