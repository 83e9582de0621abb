"""The table of the README: the shapes recipe on fresh clips, beside baselines trained with one equal budget.

    make bench                                 # or python benchmarks/shapes.py --help; writes the CSV and the table

Every baseline is a model of the bundled one's size on the same frozen frame encoder, trained by the same stages, each
cut to the same share of its steps. Training resumes where it was interrupted; scoring is done again.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import ROOT, add_rows, markdown, provenance, read_rows, write_between
from tqdm import tqdm

from shapes_world.scenes import write_dataset
from timetok.lita.answer import TINY_MODEL, Localizer
from timetok.metrics import Prediction, evaluate
from timetok.recipes.evaluate import Question, read_questions
from timetok.recipes.train import load_preset, train

NAME, KEY = "shapes", ["model", "split"]
SPLITS = ("test", "shifted")
SEED = 2026  # of the clips; training uses others


@dataclass(frozen=True)
class Variant:
    """A row of the table that is trained for the budget."""

    name: str
    changes: tuple[str, ...]


PLAIN = ("model.time_markers=false", "loss.sigma=0.0")  # LITA's published choices
VARIANTS = (
    Variant("LITA defaults", PLAIN),
    Variant("times as digits in text", (*PLAIN, 'model.codec="seconds"')),
    Variant("slow tokens only", (*PLAIN, "model.pooler={fast=false}")),
    Variant("fast tokens only", (*PLAIN, "model.pooler={num_slow_frames=0}")),
    Variant("as bundled, at this budget", ()),
)


def row(name: str, split: str, budget: str, minutes: float | str, questions: list[Question], times: list) -> dict:
    """Score one model on one split."""
    references = [question.reference for question in questions]
    found = [Prediction(one.question_id, each) for one, each in zip(references, times, strict=True)]
    report, strict = evaluate(found, references), evaluate(found, references, "lita-rtl-strict")
    tasks = {
        f"{task}_{column}": f"{part.values[name]:.4f}"
        for task, part in report.by_task.items()
        for column, name in (("miou", "mIoU"), ("p_at_05", "R1@0.5"))
    }
    return {
        "model": name,
        "split": split,
        "budget": budget,
        "train_minutes": minutes,
        "miou": f"{report.miou:.4f}",
        "p_at_05": f"{report.values['R1@0.5']:.4f}",
        "strict_miou": f"{strict.miou:.4f}",
        "parse_rate": f"{report.values['parsed']:.4f}",
        **tasks,
        "questions": report.num_samples,
        "clips": report.num_videos,
        **provenance(),
    }


def guesses(questions: list[Question]) -> dict[str, list]:
    """Answers that need no model: the whole video, and a uniformly random span."""
    rng = np.random.default_rng(SEED)
    durations = [question.reference.duration_seconds for question in questions]
    return {
        "the whole video": [(0.0, duration) for duration in durations],
        "a random span": [tuple(np.sort(rng.uniform(0, duration, 2)).tolist()) for duration in durations],
    }


def table() -> str:
    """The CSV as Markdown."""
    found = {(r["model"], r["split"]): r for r in read_rows(NAME)}
    names = list(dict.fromkeys(name for name, _ in found))
    header = [
        "model",
        "training",
        "mIoU",
        "P@0.5",
        "parsed",
        "event loc.",
        "reasoning",
        "shifted mIoU",
        "shifted P@0.5",
    ]
    lines = []
    for name in names:
        a, b = found[name, "test"], found.get((name, "shifted"), {})
        minutes = f", {float(a['train_minutes']):.0f} min" if a["train_minutes"] else ""
        cells = [
            name,
            a["budget"] + minutes,
            a["miou"],
            a["p_at_05"],
            a["parse_rate"],
            a["event_loc_miou"],
            a["rtl_miou"],
        ]
        cells += [b.get("miou", ""), b.get("p_at_05", "")]
        lines.append([f"{float(cell):.3f}" if re.fullmatch(r"\d\.\d{4}", cell) else cell for cell in cells])
    return markdown(header, lines)


def write_readme() -> None:
    """Put the table between its markers in the README."""
    write_between(ROOT / "README.md", "shapes table", table())


def features_of(localizer: Localizer, questions: Sequence[Question]) -> dict:
    """What the frozen encoder, which all models share, sees of every video asked about, and its seconds."""
    found = {}
    for path in tqdm(dict.fromkeys(question.path for question in questions), desc="videos", leave=False):
        frames = localizer.read(path)
        pixels = localizer.processor.frame_transform(frames.data)
        found[path] = localizer.model.model.features(pixels.unsqueeze(0))[0], frames.duration_seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "shapes", help="folder of `timetok train shapes`")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "table", help="clips and baselines")
    parser.add_argument("--clips", type=int, default=300, help="fresh clips a split")
    parser.add_argument("--share", type=float, default=0.15, help="share of the preset's steps that each baseline gets")
    parser.add_argument("--bundled", type=Path, help="the fully trained model (default: the one in the package)")
    parser.add_argument("--only-table", action="store_true", help="rewrite the README from the CSV and stop")
    options = parser.parse_args()
    if options.only_table:
        write_readme()
        return
    questions = {}
    for split in SPLITS:
        write_dataset(options.work / split, num_clips=options.clips, split=split, seed=SEED, workers=2)
        questions[split] = read_questions(options.work / split)
        for name, times in guesses(questions[split]).items():
            add_rows(NAME, [row(name, split, "none", "", questions[split], times)], key=KEY)
    bundled = Localizer.load(options.bundled)
    videos = {split: features_of(bundled, questions[split]) for split in SPLITS}

    def put_to(localizer: Localizer, name: str, folder: Path) -> None:
        facts = json.loads((folder / "training.json").read_text())
        for split in SPLITS:
            times = []
            for start in range(0, len(questions[split]), 32):
                group = questions[split][start : start + 32]
                features, durations = zip(*(videos[split][question.path] for question in group), strict=True)
                answers = localizer.ask(features, [question.text for question in group], durations)
                times += [answer.times_seconds for answer in answers]
            add_rows(
                NAME, [row(name, split, f"{facts['steps']} steps", facts["minutes"], questions[split], times)], key=KEY
            )

    put_to(bundled, "bundled model", options.bundled or TINY_MODEL)
    ours, frozen = bundled.model.model.vision.state_dict(), Localizer.load().model.model.vision.state_dict()
    if not all(torch.equal(frozen[name], ours[name]) for name in ours):
        raise SystemExit("--bundled: its frame encoder is not that of the package, which the baselines start from")
    shared = f"data.folder={str(options.run)!r}"  # its clips, and their features by the bundled model's encoder
    steps = [round(options.share * stage["trainer"]["max_steps"]) for stage in load_preset("shapes")["stages"]]
    budget = tuple(f"stages.{number}.trainer.max_steps={count}" for number, count in enumerate(steps))
    for variant in VARIANTS:
        out = options.work / f"{re.sub(r'[^a-z]+', '-', variant.name.lower())}-{sum(steps)}"
        model = train(load_preset("shapes", [shared, *variant.changes, *budget]), out)  # resumes; refuses a mix-up
        put_to(Localizer.load(model), variant.name, model)
    write_readme()
    print(table())


if __name__ == "__main__":
    main()
