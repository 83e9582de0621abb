"""The span posterior against greedy decoding, free-running, on the shapes recipe: three seeds at T = 10, 25 and 100.

    python benchmarks/posterior.py             # trains nine small models (about an hour on two cores), resumes

All see 25 frames and take the same steps; clips, frame encoder and features are those of `timetok train shapes`, the
fresh clips those of `make bench`. The bundled model, which sees 100 frames and is better, is measured beside them.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from harness import ROOT, add_rows, markdown, provenance, read_rows, write_between
from torch import nn

from shapes_world import recipe
from shapes_world.scenes import write_dataset
from timetok import Span
from timetok.atomic import replacing
from timetok.decoding import span_distribution
from timetok.lita.answer import Localizer
from timetok.metrics import iou
from timetok.recipes.evaluate import ask_all, read_questions
from timetok.recipes.train import build_model, load_preset, train_stages

CLIPS_SEED = 2026  # of `make bench`
TOP_STARTS = 100  # all of them: 40 cover .89 to .94 of what models this small believe at T = 100
TRAINED = "25 frames, 650 steps"
CHANGES = (
    "model.num_frames=25",
    "stages.0.trainer.max_steps=400",
    "stages.1.num_frames=25",
    "stages.1.turns=4",
    "stages.1.rates.shapes={event_loc=4,rtl=3,listing=1}",
    "stages.1.matrix_learning_rate=1e-2",
    "stages.1.trainer.max_steps=250",
    'stages.1.trainer.lr_scheduler_type="cosine"',
)


def trained(run: Path, out: Path, marks: int, seed: int) -> Path:
    """A model of 25 frames and so many marks; only the language model's seed differs from run to run."""
    if (out / "model").exists():
        return out / "model"
    preset = load_preset("shapes", [*CHANGES, f"model.num_time_tokens={marks}", f"data.seed={seed}"])
    preset["stages"] = preset["stages"][:2]
    model, processor = build_model(preset)
    of_seed_0 = {**preset, "data": load_preset("shapes")["data"]}
    train_stages(preset, model, processor, recipe.open_sources(of_seed_0, model, processor, run), out)
    with replacing(out / "model") as folder:
        nn.Module.half(model).save_pretrained(folder)
        processor.save_pretrained(folder)
    return out / "model"


def calibration_error(confidences: np.ndarray, truths: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and IoU over equally wide bins, weighted by size."""
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    return float(sum(abs((confidences - truths)[place == k].sum()) for k in range(bins)) / len(truths))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, ties in order of appearance."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def measure(localizer: Localizer, questions: Sequence, name: str, seed: int) -> dict:
    """One row: every question asked greedily and by posterior."""
    frames = {path: localizer.read(path) for path in dict.fromkeys(question.path for question in questions)}
    videos = {path: (localizer.encode(each), each.duration_seconds) for path, each in frames.items()}
    greedy = [
        Span(*sorted(a.times_seconds[:2])) if len(a.times_seconds) > 1 else None for a in ask_all(localizer, questions)
    ]
    posteriors, tt = [], localizer.processor.tt
    space = tt.tokenizer.encode(" ", add_special_tokens=False)
    for k in range(0, len(questions), 8):
        group = questions[k : k + 8]
        features, durations = zip(*(videos[question.path] for question in group), strict=True)
        texts = [localizer.processor.prompt(question.text) for question in group]
        batch = localizer.processor.prompts(texts, videos=features, trusted=False)
        lead = torch.tensor(space).expand(len(group), -1)  # answers of LITA are written " <t1> <t2>"
        batch["input_ids"] = torch.cat([batch["input_ids"], lead], 1)
        batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(lead)], 1)
        options = {"durations": durations, "between_ids": space, "top_starts": TOP_STARTS}
        with torch.inference_mode():
            posteriors += span_distribution(localizer.model, batch, tt, **options)
    truths = [question.reference.spans[0] for question in questions]
    best = [posterior.best() for posterior in posteriors]
    refined = [posterior.refined(found.span) for posterior, found in zip(posteriors, best, strict=True)]
    score = {
        "greedy": [iou(span, truth) if span else 0.0 for span, truth in zip(greedy, truths, strict=True)],
        "posterior": [iou(found.span, truth) for found, truth in zip(best, truths, strict=True)],
        "refined": [iou(span, truth) for span, truth in zip(refined, truths, strict=True)],
    }
    mean = {key: float(np.mean(values)) for key, values in score.items()}
    confidences, reached = np.array([found.confidence for found in best]), np.array(score["posterior"])
    numbers = {
        "greedy_miou": mean["greedy"],
        "posterior_miou": mean["posterior"],
        "gain": mean["posterior"] - mean["greedy"],
        "refined_miou": mean["refined"],
        "mean_confidence": float(confidences.mean()),
        "calibration_error": calibration_error(confidences, reached),
        "rank_correlation": rank_correlation(confidences, reached),
        "covered": float(np.mean([posterior.covered for posterior in posteriors])),
    }
    return {
        "model": name,
        "marks": localizer.processor.tt.grid.num_tokens,
        "seed": seed,
        **{key: f"{value:.4f}" for key, value in numbers.items()},
        "top_starts": TOP_STARTS,
        "questions": len(questions),
        **provenance(),
    }


def table() -> str:
    """The CSV as Markdown: means and ranges over seeds."""
    header = [
        "model",
        "T",
        "seeds",
        "greedy mIoU",
        "posterior",
        "gain",
        "confidence",
        "calibration error",
        "rank corr.",
    ]
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in read_rows("posterior"):
        groups.setdefault((row["model"], row["marks"]), []).append(row)
    lines = []
    for (model, marks), group in sorted(groups.items(), key=lambda item: (item[0][0], int(item[0][1]))):
        values = {key: [float(row[key]) for row in group] for key in list(group[0])[3:10]}
        gain = f"{np.mean(values['gain']):+.3f} ({min(values['gain']):+.3f} to {max(values['gain']):+.3f})"
        means = {key: f"{np.mean(found):.3f}" for key, found in values.items()}
        shown = [means["greedy_miou"], means["posterior_miou"], gain, means["mean_confidence"]]
        lines.append([model, marks, str(len(group)), *shown, means["calibration_error"], means["rank_correlation"]])
    return markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "shapes", help="folder of `timetok train shapes`")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "posterior", help="models")
    parser.add_argument("--test", type=Path, default=ROOT / "runs" / "table" / "test", help="clips of `make bench`")
    parser.add_argument("--marks", type=int, nargs="+", default=[25, 100, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    write_dataset(options.test, num_clips=300, split="test", seed=CLIPS_SEED, workers=2)
    questions = read_questions(options.test)
    key = ["model", "marks", "seed"]
    done = {tuple(row[name] for name in key) for row in read_rows("posterior")}  # remove the CSV to measure again
    if ("bundled", "100", "0") not in done:
        add_rows("posterior", [measure(Localizer.load(), questions, "bundled", 0)], key=key)
    for seed, marks in product(options.seeds, options.marks):
        if (TRAINED, str(marks), str(seed)) not in done:
            model = trained(options.run, options.work / f"{marks}-{seed}", marks, seed)
            add_rows("posterior", [measure(Localizer.load(model), questions, TRAINED, seed)], key=key)
    write_between(ROOT / "docs" / "time.md", "posterior table", table())
    print(table())


if __name__ == "__main__":
    main()
