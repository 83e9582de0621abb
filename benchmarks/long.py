"""Films of an hour: search and zoom against one pass, retrieval alone, and as many windows without a search.

    python benchmarks/long.py            # writes three films, asks 20 questions; then memory over the length

All use the bundled model; the matcher is a linear head on its frame encoder, trained on single frames of other clips.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from harness import ROOT, add_rows, markdown, provenance, read_rows, write_between
from timetok.search import Search, localize_long, localize_long_all

from shapes_world.hours import ShapesMatcher, draw_film, write_film
from timetok import Span
from timetok.lita.answer import Localizer
from timetok.metrics import iou
from timetok.plots import save, search_chart
from timetok.timegrid import TimeGrid
from timetok.video import Part

FILMS = {1: 7, 2: 7, 3: 6}  # questions about each, by its seed
LENGTHS = (10, 30, 60)  # minutes
WAYS = ("one pass over 100 frames", "retrieval alone", "windows without a search", "search, then zoom")
MEMORY = """
import resource, sys
from pathlib import Path
from shapes_world.hours import ShapesMatcher, draw_film, write_film
from timetok.lita.answer import Localizer
from timetok.search import Search, localize_long
folder, minutes = Path(sys.argv[1]), float(sys.argv[2])
localizer = Localizer.load()
film = draw_film(1, minutes=minutes)
path = folder / f"film-1-{minutes:g}.mp4"
matcher = ShapesMatcher(localizer)
localize_long(path, next(iter(film.truths)), localizer, Search(matcher=matcher))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def retrieved(times: np.ndarray, scores: np.ndarray) -> Span:
    """The run of frames around the best one that score at least half as high."""
    best, high = int(scores.argmax()), scores >= scores.max() / 2
    before, after = np.flatnonzero(~high[: best + 1]), np.flatnonzero(~high[best:])
    first = int(before[-1]) + 1 if len(before) else 0
    last = best + int(after[0]) - 1 if len(after) else len(high) - 1
    return Span(times[first], times[last])


def windows_alone(localizer: Localizer, path: Path, question: str, duration: float, num: int) -> Span | None:
    """The most confident answer of as many windows side by side."""
    edges = TimeGrid(num + 1).sample_times(duration)
    found = []
    for start, end in zip(edges, edges[1:], strict=False):
        encoded = localizer.encode(localizer.read(Part(path, Span(start, end))))
        (answer,) = localizer.weigh([encoded], [question], [end - start])
        found += [(answer.confidences[0], Span(start + span.start, start + span.end)) for span in answer.spans]
    return max(found)[1] if found else None


def ask(localizer: Localizer, matcher: ShapesMatcher, folder: Path, seed: int, minutes: float) -> list[dict]:
    """A row for every question about a film and every way to answer it."""
    film = draw_film(seed, minutes=minutes, num_questions=FILMS[seed])
    path, questions, duration = folder / f"film-{seed}-{minutes:g}.mp4", list(film.truths), film.duration_seconds
    write_film(film, path)
    begin = time.perf_counter()
    answers = localize_long_all(path, questions, localizer, Search(matcher=matcher))
    together = time.perf_counter() - begin
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        truth, calls = film.truths[question], len(answer.tried)
        begin = time.perf_counter()
        localize_long(path, question, localizer, Search(matcher=matcher))
        alone = time.perf_counter() - begin
        begin = time.perf_counter()
        encoded = localizer.encode(localizer.read(path))
        (one,) = localizer.weigh([encoded], [question], [duration])
        passed = time.perf_counter() - begin
        begin = time.perf_counter()
        side_by_side = windows_alone(localizer, path, question, duration, calls)
        uniform = time.perf_counter() - begin
        first = [each.window for each in answer.tried if not each.zoom]
        recall = any(each.start <= truth.start and truth.end <= each.end for each in first)
        found = [next(iter(one.spans), None), retrieved(answer.times_seconds, answer.scores), side_by_side]
        spans = dict(zip(WAYS, [*found, next(iter(answer.spans), None)], strict=True))
        costs = dict(zip(WAYS, [(1, passed), (0, together / len(questions)), (calls, uniform), (calls, alone)], strict=True))
        for way, span in spans.items():
            num, seconds = costs[way]
            row = {"film": seed, "minutes": minutes, "question": question, "way": way, "iou": iou(span, truth) if span else 0.0}
            row |= {"calls": num, "seconds": f"{seconds:.2f}", "window_has_it": int(recall)}
            rows.append(row | {"seconds_together": f"{together / len(questions):.2f}"} | provenance())
    chart = search_chart(answers[0], question=questions[0], truth=[film.truths[questions[0]]])
    save(chart, ROOT / "docs" / "long.png")
    return rows


def tables() -> str:
    """The docs' tables, from the CSV files alone."""
    rows = read_rows("long")
    lines = []
    for way in WAYS:
        some = [row for row in rows if row["way"] == way]
        ious = np.array([float(row["iou"]) for row in some])
        calls, seconds = (np.mean([float(row[name]) for row in some]) for name in ("calls", "seconds"))
        lines.append([way, f"{ious.mean():.3f}", f"{(ious >= 0.5).mean():.2f}", f"{calls:.1f}", f"{seconds:.1f}"])
    ours = [row for row in rows if row["way"] == WAYS[-1]]
    recall = np.mean([int(row["window_has_it"]) for row in ours])
    alone, together = (np.sum([float(row[name]) for row in ours]) for name in ("seconds", "seconds_together"))
    text = markdown(["way", "mIoU", "R@0.5", "LM calls", "seconds"], lines)
    text += f"\n\nThe search alone puts the event whole into a first window in {recall:.0%} of {len(ours)} questions. "
    text += f"Asked together they take {together:.0f} s, one by one {alone:.0f} s: {together / alone:.2f} of the time."
    memory = [[row["minutes"], row["peak_gib"]] for row in read_rows("long_memory")]
    return f"{text}\n\n{markdown(['minutes of video', 'peak GiB of the process'], memory)}"


def main(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    localizer = Localizer.load()
    matcher = ShapesMatcher(localizer).fit(options.out / "clips")
    for seed in FILMS:
        rows = ask(localizer, matcher, options.out, seed, options.minutes)
        add_rows("long", rows, key=("film", "minutes", "question", "way"))
    for minutes in LENGTHS:
        write_film(draw_film(1, minutes=minutes), options.out / f"memory-1-{minutes:g}.mp4")
        command = [sys.executable, "-c", MEMORY.replace("film-1", "memory-1"), str(options.out), str(minutes)]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        row = {"minutes": minutes, "peak_gib": f"{float(peak):.2f}"}
        add_rows("long_memory", [row | provenance()], key=("minutes",))
    write_between(ROOT / "docs" / "long.md", "table of long videos", tables())
    print(tables())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "long", help="films and clips")
    parser.add_argument("--minutes", type=float, default=60.0)
    main(parser.parse_args())
