"""Films of an hour: search and closer windows against one pass, the search alone, and as many windows without one.

    python benchmarks/long.py            # writes films, asks 20 questions about three, then memory over the length

All use the bundled model; the search is a linear head on its frame encoder, trained on frames of other clips.
"""

import argparse
import subprocess
import sys
import time
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from harness import ROOT, add_rows, markdown, provenance, read_rows, write_between

from long_videos import chart, remembering
from shapes_world.hours import ShapesMatcher, draw_film, write_film
from timetok import Span, TimeGrid, localize_long
from timetok.lita.answer import Localizer
from timetok.metrics import iou
from timetok.plots import save
from timetok.recipes.search import fits, index
from timetok.video import Part

FILMS = {1: 7, 2: 7, 3: 6}  # questions about each, by its seed
LENGTHS = (10, 30, 60)  # minutes
SEARCHES = (200, 16)  # clips that the matcher was trained on: a search that is nearly always right, and one that is not
WAYS = ("one pass over 100 frames", "search alone", "as many windows, no search", "search, then closer windows")


def highest(times: np.ndarray, scores: np.ndarray) -> Span:
    """The run of frames around the best one that score at least half as high."""
    best, low = int(scores.argmax()), np.flatnonzero(scores < scores.max() / 2)
    before, after = low[low < best], low[low > best]  # what is shown stays until the next frame
    return Span(times[before.max() + 1 if len(before) else 0], times[after.min() if len(after) else -1])


def side_by_side(localizer: Localizer, path: Path, question: str, duration: float, num: int) -> Span:
    """The most confident of the answers about so many equal windows."""
    found = []
    for start, end in pairwise(TimeGrid(num + 1).sample_times(duration).tolist()):
        encoded = localizer.encode(localizer.read(Part(path, Span(start, end))))
        (answer,) = localizer.weigh([encoded], [question], [end - start])
        found += [(answer.confidences[0], Span(*(start + moment for moment in answer.spans[0])))]
    return max(found)[1]


def ask(localizer: Localizer, matcher: ShapesMatcher, num_clips: int, folder: Path, seed: int, minutes: float) -> list:
    """A row for every question about a film and every way to answer it."""
    film = draw_film(seed, minutes=minutes, num_questions=FILMS[seed])
    path, duration = folder / f"film-{seed}-{minutes:g}.mp4", film.duration_seconds
    write_film(film, path)
    clock = time.perf_counter
    begin = clock()
    with TemporaryDirectory() as kept:
        found = index(path, matcher, kept)
    searched = clock() - begin
    rows = []
    for question, truth in film.truths.items():
        times, scores = fits(*found, matcher, question)
        ticks = [clock()]
        answer = localize_long(path, question, localizer, scores=(times, scores))
        calls = len(answer.tried)
        ticks.append(clock())
        encoded = localizer.encode(localizer.read(path))
        (one,) = localizer.weigh([encoded], [question], [duration])
        ticks.append(clock())
        alone = side_by_side(localizer, path, question, duration, calls)
        ticks.append(clock())
        asked, passed, apart = np.diff(ticks)
        first = [window for window, _ in answer.tried if abs(window.duration_seconds - 60) < 1e-6]
        has_it = any(window.start <= truth.start and truth.end <= window.end for window in first)
        spans = one.spans[0], highest(times, scores), alone, next(iter(answer.spans), Span(0, 0))
        costs = (1, passed), (0, searched), (calls, apart), (calls, searched + asked)
        for way, span, (num, seconds) in zip(WAYS, spans, costs, strict=True):
            row = {"film": seed, "minutes": minutes, "clips": num_clips, "question": question, "way": way}
            row |= {
                "iou": f"{iou(span, truth):.4f}",
                "calls": num,
                "seconds": f"{seconds:.2f}",
                "windows_seconds": f"{asked:.2f}",
            }
            rows.append(row | {"window_has_it": int(has_it), **provenance()})
        print(*(f"{row['way']}: {row['iou']}" for row in rows[-len(WAYS) :]), sep=" | ")
    if (num_clips, seed) == (SEARCHES[0], 1):
        figure = chart(answer, (times, scores), question=question, truth=[truth])
        save(figure, ROOT / "docs" / "long.png")
    return rows


def together(localizer: Localizer, matcher: ShapesMatcher, folder: Path, minutes: float) -> dict:
    """All questions about all films, timed: a search a film, and windows shared."""
    encoded, encode, tried, begin = [], localizer.encode, 0, time.perf_counter()
    localizer.encode = lambda frames: encoded.append(None) or encode(frames)
    with TemporaryDirectory() as answers:
        sharing = remembering(localizer, answers)
        for seed, num in FILMS.items():
            path = folder / f"film-{seed}-{minutes:g}.mp4"
            found = index(path, matcher, Path(answers, "index"))
            for question in draw_film(seed, minutes=minutes, num_questions=num).truths:
                tried += len(localize_long(path, question, sharing, scores=fits(*found, matcher, question)).tried)
    taken = time.perf_counter() - begin
    del localizer.encode
    numbers = {"questions": sum(FILMS.values()), "windows": tried, "encoded": len(encoded), "seconds": f"{taken:.1f}"}
    return {"minutes": minutes, **numbers, **provenance()}


def tables() -> str:
    """The docs' tables, from the CSV files alone."""
    lines, rows = [], read_rows("long")
    for num, way in product(SEARCHES, WAYS):
        some = [row for row in rows if row["way"] == way and int(row["clips"]) == num]
        searches = way in WAYS[1::2]
        if searches or num == SEARCHES[0]:
            ious = np.array([float(row["iou"]) for row in some])
            calls, seconds, recall = (
                np.mean([float(row[name]) for row in some]) for name in ("calls", "seconds", "window_has_it")
            )
            told = [f"{ious.mean():.3f}", f"{(ious >= 0.5).mean():.2f}", f"{recall:.2f}" if way == WAYS[3] else "–"]
            lines.append([way, f"{num} clips" if searches else "–", *told, f"{calls:.1f}", f"{seconds:.1f}"])
    header = ["way", "search learnt from", "mIoU", "R@0.5", "recall of the search", "LM calls", "seconds"]
    ours = [row for row in rows if row["way"] == WAYS[-1] and int(row["clips"]) == SEARCHES[0]]
    alone = sum(float(row["seconds"]) for row in ours)
    shared = next(row for row in read_rows("long_together") if row["minutes"] == ours[0]["minutes"])
    seconds, num_films = float(shared["seconds"]), len({row["film"] for row in ours})
    text = f"{len(ours)} questions about {num_films} films asked together take {seconds:.0f} s, one search a film and "
    text += f"{shared['encoded']} windows\nencoded of {shared['windows']} shown; one by one they take {alone:.0f} s: "
    text += f"{seconds / alone:.2f} of the time."
    memory = [[row["minutes"], row["peak_gib"]] for row in read_rows("long_memory")]
    sizes = markdown(["minutes of video", "peak GiB of the process"], memory)
    return f"{markdown(header, lines)}\n\n{text}\n\n{sizes}"


def peak_gib(folder: Path, minutes: float) -> float:
    """What a process needs at most that searches a film and answers one question."""
    path = folder / f"memory-{minutes:g}.mp4"
    film = draw_film(1, minutes=minutes)
    write_film(film, path)
    code = f"""
from pathlib import Path
from tempfile import TemporaryDirectory
from shapes_world.hours import ShapesMatcher
from timetok import localize_long
from timetok.lita.answer import Localizer
from timetok.recipes.search import fits, index
localizer, question = Localizer.load(), {next(iter(film.truths))!r}
matcher = ShapesMatcher(localizer)
with TemporaryDirectory() as kept:
    found = index({str(path)!r}, matcher, kept)
localize_long({str(path)!r}, question, localizer, scores=fits(*found, matcher, question))
status = Path("/proc/self/status").read_text()  # ru_maxrss of a child begins at its parent's peak
print(int(status.split("VmHWM:")[1].split()[0]) / 2**20)
"""
    folders = {"cwd": ROOT / "examples", "capture_output": True, "text": True, "check": True}
    return float(subprocess.run([sys.executable, "-c", code], **folders).stdout.split()[-1])


def main(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    localizer = Localizer.load()
    for num_clips in SEARCHES:
        matcher = ShapesMatcher(localizer).fit(options.out / f"clips-{num_clips}", num_clips=num_clips)
        for seed in FILMS:
            rows = ask(localizer, matcher, num_clips, options.out, seed, options.minutes)
            add_rows("long", rows, key=("film", "minutes", "clips", "question", "way"))
        if num_clips == SEARCHES[0]:
            add_rows("long_together", [together(localizer, matcher, options.out, options.minutes)], key=("minutes",))
    for minutes in LENGTHS:
        row = {"minutes": minutes, "peak_gib": f"{peak_gib(options.out.resolve(), minutes):.2f}"}
        add_rows("long_memory", [row | provenance()], key=("minutes",))
    write_between(ROOT / "docs" / "long.md", "table of long videos", tables())
    print(tables())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "long", help="films and clips")
    parser.add_argument("--minutes", type=float, default=60.0)
    main(parser.parse_args())
