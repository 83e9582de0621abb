"""The table of the README: the shapes recipe on fresh clips, beside baselines trained with one equal budget.

    python benchmarks/shapes.py --run runs/shapes                  # trains what is missing, scores, writes the table

Every baseline is a model of the bundled one's size on the same frozen frame encoder, trained for the same number
of conversations. Finished rows are kept: a run that was interrupted goes on with the next row.
"""

import argparse
import csv
import json
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from timetok import __version__
from timetok.lita.answer import Localizer
from timetok.recipes.evaluate import Question, ask_all, encode_videos, read_questions, score
from timetok.recipes.preset import load_preset
from timetok.recipes.shapes import write_dataset
from timetok.recipes.train import train

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "shapes.csv"
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
    Variant("LITA + time markers + soft targets", ()),
)


def row(name: str, split: str, budget: str, minutes: float | None, questions: list[Question], times: list) -> dict:
    """Score one model on one split."""
    report = score(questions, times)
    strict = score(questions, times, protocol="lita-rtl-strict")
    tasks = {
        f"{task}_{key}": f"{getattr(part, key):.4f}"
        for task, part in report.by_task.items()
        for key in ("miou", "p_at_05")
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {
        "model": name,
        "split": split,
        "budget": budget,
        "train_minutes": "" if minutes is None else f"{minutes:.1f}",
        "miou": f"{report.miou:.4f}",
        "p_at_05": f"{report.p_at_05:.4f}",
        "strict_miou": f"{strict.miou:.4f}",
        "parse_rate": f"{report.parse_rate:.4f}",
        **tasks,
        "questions": report.num_samples,
        "clips": report.num_videos,
        "timetok": __version__,
        "commit": commit.strip(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
    }


def append(rows: list[dict]) -> None:
    """Add rows to the CSV, rewritten whole under a temporary name."""
    done = [old for old in read() if (old["model"], old["split"]) not in {(r["model"], r["split"]) for r in rows}]
    partial = RESULTS.with_suffix(".part")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([*done, *rows])
    partial.replace(RESULTS)


def read() -> list[dict]:
    """Rows of the CSV, none where it does not exist."""
    return list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []


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
    found = {(r["model"], r["split"]): r for r in read()}
    names = list(dict.fromkeys(name for name, _ in found))
    lines = [
        "| model | training | mIoU | P@0.5 | parsed | event loc. | reasoning | shifted mIoU | shifted P@0.5 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
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
        lines.append("| " + " | ".join(f"{float(c):.3f}" if re.fullmatch(r"\d\.\d{4}", c) else c for c in cells) + " |")
    return "\n".join(lines)


def write_readme() -> None:
    """Put the table between its markers in the README."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    marks = "<!-- shapes table -->", "<!-- end of shapes table -->"
    head, _, rest = text.partition(marks[0])
    _, _, tail = rest.partition(marks[1])
    readme.write_text(f"{head}{marks[0]}\n{table()}\n{marks[1]}{tail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "shapes", help="folder of `timetok train shapes`")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "table", help="clips and baselines")
    parser.add_argument("--clips", type=int, default=300, help="fresh clips a split")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each baseline")
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
            append([row(name, split, "none", None, questions[split], times)])
    bundled = Localizer.load(options.bundled)
    videos = {split: encode_videos(bundled, questions[split]) for split in SPLITS}

    def put_to(localizer: Localizer, name: str, budget: str, minutes: float | None) -> None:
        for split in SPLITS:
            answers = ask_all(localizer, questions[split], videos[split])
            times = [answer.times_seconds for answer in answers]
            append([row(name, split, budget, minutes, questions[split], times)])

    card = json.loads(
        ((options.bundled or Path(__import__("timetok").lita.answer.TINY_MODEL)) / "training.json").read_text()
    )
    put_to(bundled, "bundled model (LITA + time markers + soft targets)", f"{card['steps']} steps", card["minutes"])
    shared = (f"data.folder={str(options.run / 'clips')!r}", f"data.cache={str(options.run)!r}")
    for variant in VARIANTS:
        out = options.work / re.sub(r"\W+", "-", variant.name)
        budget = (
            f"trainer.max_steps={options.steps}",
            f"trainer.save_steps={options.steps}",
            "trainer.warmup_steps=60",
        )
        started = time.monotonic()
        if not (out / "model").exists():
            train(load_preset("shapes", [*shared, *variant.changes, *budget]), out)
            (out / "minutes").write_text(str((time.monotonic() - started) / 60))
        minutes = float((out / "minutes").read_text())
        put_to(Localizer.load(out / "model"), variant.name, f"{options.steps} steps", minutes)
    write_readme()
    print(table())


if __name__ == "__main__":
    main()
