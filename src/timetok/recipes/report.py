"""What an evaluation leaves behind: the report as JSON, Markdown and a figure, and a row for every question."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from timetok import plots
from timetok.atomic import replacing, write_json
from timetok.lita.answer import Answer
from timetok.metrics import Reference, Report, bootstrap, iou, parse_captions, write_captions
from timetok.metrics.scoring import plain
from timetok.metrics.spans import as_pairs
from timetok.timegrid import TimeGrid


def write_report(
    report: Report,
    references: Sequence[Reference],
    out: Path,
    *,
    answers: Sequence[Answer] = (),
    grid: TimeGrid | None = None,
    seed: int = 0,
) -> None:
    """Write ``report.json``, ``report.md``, ``report.png`` and ``samples.csv`` into a folder, with intervals of 95 %.

    ``references`` are in the order of the report, and so are ``answers``, whose texts are told too; where the protocol
    asks for events they are written as ``captions.json`` for caption scorers. With the ``grid`` of a model's time
    tokens the figure shows how often a boundary is on the right mark, by the probability of its token.
    """
    out.mkdir(parents=True, exist_ok=True)
    intervals = bootstrap(report, seed=seed)
    write_json(out / "report.json", {**report.as_json(), "intervals": plain(intervals)})
    with replacing(out / "report.md") as partial:
        partial.write_text(_markdown(report, intervals), encoding="utf-8")
    with replacing(out / "samples.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        measures = [*report.per_sample[0].measures]
        rows.writerow(["question_id", "vid", "task", "seconds", "truth", "windows", "parsed", *measures, "answer"])
        for k, (sample, truth) in enumerate(zip(report.per_sample, references, strict=True)):
            spans = (" ".join(f"{a:g}-{b:g}" for a, b in each) for each in (truth.spans, sample.windows))
            row = [sample.question_id, sample.vid, sample.task, truth.duration_seconds, *spans, sample.parsed]
            rows.writerow([*row, *sample.measures.values(), answers[k].text if answers else ""])
    if answers and "detection" in report.protocol.measures:
        texts = zip([truth.vid for truth in references], answers, strict=True)
        write_captions(out / "captions.json", {vid: parse_captions(answer.text) for vid, answer in texts})
    plots.save(_figure(report, references, answers, grid), out / "report.png")


def _markdown(report: Report, intervals: dict[str, tuple[float, float]]) -> str:
    header, first, *others = report.rows()
    between = (intervals.get(name) for name in header[1:])
    ends = ["95 %", *("" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}" for pair in between)]
    rows = [header, ["---"] * len(header), first, ends, *others]
    listed = [f"{kind}: {', '.join(map(str, ids))}" for kind, ids in report.problems.items() if ids]
    return "\n\n".join(["\n".join(f"| {' | '.join(row)} |" for row in rows), *listed]) + "\n"


def _figure(
    report: Report, references: Sequence[Reference], answers: Sequence[Answer], grid: TimeGrid | None
) -> Figure:
    """The first window of each answer that held one, against the annotated one nearest to it."""
    errors, lengths, middles, probabilities, right = (list[float]() for _ in range(5))
    for k, (sample, truth) in enumerate(zip(report.per_sample, references, strict=True)):
        if sample.parsed:
            window, truths = as_pairs(sample.windows[:1]), as_pairs(truth.spans)
            held = truths[iou(window, truths).argmax()]
            errors.append(np.abs(window[0] - held).mean())
            lengths.append(truth.duration_seconds)
            middles.append(held.mean() / truth.duration_seconds)
            if grid and answers and answers[k].probabilities:
                step = grid.max_error(truth.duration_seconds) * (1 + 1e-9)
                probabilities += answers[k].probabilities[:2]
                right += (np.abs(window[0] - held) <= step).tolist()
    ious = [sample.measures["mIoU"] for sample in report.per_sample]
    places = {"lengths": lengths, "positions": middles}
    return plots.scores(ious, errors, **places, probabilities=probabilities, right=right)
