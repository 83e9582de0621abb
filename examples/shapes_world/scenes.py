"""Synthetic videos: coloured shapes that appear, move, overlap and leave, before moving backgrounds."""

from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
from tqdm.contrib.concurrent import thread_map

from shapes_world.painting import RGB, Scene, Track, draw_background, draw_distractor, draw_motion, render_frames
from shapes_world.tasks import HELD_OUT, SEEN_PAIRS, SHAPES, TASKS, draw_turns, name_of, pair_of, shown
from timetok.atomic import replacing, write_json
from timetok.errors import ArgumentError
from timetok.recipes.cache import claim
from timetok.recipes.records import Event, Record
from timetok.timegrid import Span

Split: TypeAlias = Literal["train", "test", "shifted"]

COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40), "green": (40, 180, 60), "blue": (45, 80, 230), "yellow": (235, 220, 40),
    "purple": (170, 40, 200), "white": (240, 240, 240),
}  # fmt: skip
_SPLIT_NUMBERS: dict[Split, int] = {"train": 0, "test": 1, "shifted": 2}
_GAP = 0.03  # starts are at least this share of the duration apart
_MOST_VISIBLE = 3
_MOST_COVERED = 0.15  # of the time a shape is visible


def draw_scene(seed: int, split: Split = "train") -> Scene:
    """Draw one scene: 2 to 5 events, distractors and a background.

    ``train`` and ``test`` share one distribution and no seed; ``shifted`` is longer, has other frame rates and
    sizes, and shows at least one pair of `HELD_OUT`, which the others never show. The seed is any non-negative integer;
    else, or for another split, ArgumentError is raised.

    >>> any(pair_of(event) in HELD_OUT for event in draw_scene(3, "shifted").events)
    True
    """
    if split not in _SPLIT_NUMBERS or seed < 0:
        raise ArgumentError(f"got seed {seed}, split {split!r}; expected seed >= 0, split in {sorted(_SPLIT_NUMBERS)}")
    rng = np.random.default_rng([seed, _SPLIT_NUMBERS[split]])
    seconds, fps, size = _draw_format(rng, split)
    num_frames = round(seconds * fps)
    events = _draw_events(rng, num_frames, fps, hidden_pairs=split == "shifted")
    tracks = draw_tracks(rng, events, fps, size)
    distractors = [draw_distractor(rng, num_frames, min(size)) for _ in range(rng.integers(4))]
    background = draw_background(rng, size)
    return Scene(seed, size, fps, num_frames, events, (*distractors, *tracks), background)


def write_clip(scene: Scene, path: str | Path, later: Sequence[Scene] = ()) -> None:
    """Write a scene as an H.264 mp4 (yuv420p), with ``later`` ones of its size and rate behind it.

    The file appears under its name only when it is complete.
    """
    options = {"preset": "veryfast", "crf": str(20 + scene.seed % 7), "g": str(2 * scene.fps), "threads": "1"}
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(scene.fps), options=options)
        (stream.width, stream.height), stream.pix_fmt = scene.size, "yuv420p"
        for each in (scene, *later):
            for first in range(0, each.num_frames, 32):
                for pixels in render_frames(each, range(first, min(first + 32, each.num_frames))):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def write_dataset(folder: Path, *, num_clips: int, split: Split, seed: int, workers: int = 1) -> dict[Path, Scene]:
    """Write clips and their annotations: the path of each clip, and what it shows.

    First the JSON: ``dataset.json`` (split and seed), ``scenes.json`` (all that is shown) and, in LITA's layouts,
    ``dvc.json``, ``rtl.json`` and ``event_loc.json`` (evaluation, one question a clip), ``vidqa.json``. Then
    ``videos/{split}_{k:05d}.mp4``, encoded by ``workers`` threads. A call continues where an earlier one stopped and
    may ask for more clips. One folder holds one split and one non-negative seed, which decides every byte of JSON and
    every pixel painted; else DataError.
    """
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    scenes = {videos / f"{split}_{k:05d}.mp4": draw_scene(seed * 1_000_000 + k, split) for k in range(num_clips)}
    claim(folder / "dataset.json", {"split": split, "seed": seed})
    for name, content in _annotations(scenes, _SPLIT_NUMBERS[split]).items():
        write_json(folder / name, content)
    missing = [path for path in scenes if not path.exists()]
    thread_map(lambda path: write_clip(scenes[path], path), missing, max_workers=workers, desc="clips")
    return scenes


def cut(events: Sequence[Event], start_seconds: float, stop_seconds: float) -> tuple[Event, ...]:
    """The events of a sub-clip: shifted to its begin, clipped to its ends, unseen ones left out.

    >>> cut([Event("A red circle is visible.", Span(1.0, 6.0))], 2.0, 5.0)[0].span
    Span(start=0.0, end=3.0)
    """
    seen = [(each, max(each.span.start, start_seconds), min(each.span.end, stop_seconds)) for each in events]
    moved = [(each, Span(a - start_seconds, b - start_seconds)) for each, a, b in seen if b - a > 1e-6]
    return tuple(Event(each.text, span) for each, span in moved)


def _draw_format(rng: np.random.Generator, split: Split) -> tuple[float, int, tuple[int, int]]:
    if split == "shifted":
        sizes, fps, seconds = [(176, 144), (208, 112)], [5, 15], (90.0, 180.0)
    else:
        sizes, fps, seconds = [(160, 120), (128, 128), (192, 108)] * 5 + [(320, 240)], [6, 8, 10, 12], (5.0, 90.0)
    duration = float(np.exp(rng.uniform(*np.log(seconds))))
    return duration, fps[rng.integers(len(fps))], sizes[rng.integers(len(sizes))]


def _draw_events(rng: np.random.Generator, num_frames: int, fps: int, *, hidden_pairs: bool) -> tuple[Event, ...]:
    """Unique pairs, visible for whole frames, sorted by start."""
    num = int(rng.integers(2, 6))
    allowed = tuple(product(COLOURS, SHAPES)) if hidden_pairs else SEEN_PAIRS
    pairs = [allowed[int(i)] for i in rng.choice(len(allowed), num, replace=False)]
    if hidden_pairs and not HELD_OUT & set(pairs):
        pairs[rng.integers(num)] = sorted(HELD_OUT)[rng.integers(len(HELD_OUT))]
    shortest, longest = max(int(np.ceil(0.08 * num_frames)), int(np.ceil(0.6 * fps))), int(0.45 * num_frames)
    while True:
        lengths = rng.integers(shortest, longest + 1, num)
        # a little over the ends, so that some events touch the begin or the end of the clip
        starts = rng.uniform(-0.07, 1.07, num) * (num_frames - lengths)
        starts = np.sort(np.clip(np.rint(starts).astype(int), 0, num_frames - lengths))
        stops = np.minimum(starts + lengths, num_frames)
        crowd = [((starts <= start) & (stops > start)).sum() for start in starts]
        long_enough = (stops - starts >= shortest).all()
        if long_enough and np.diff(starts).min() >= _GAP * num_frames and max(crowd) <= _MOST_VISIBLE:
            visible = zip(pairs, (starts / fps).tolist(), (stops / fps).tolist(), strict=True)
            return tuple(shown(*pair, Span(start, stop)) for pair, start, stop in visible)


def draw_tracks(rng: np.random.Generator, events: Sequence[Event], fps: int, size: tuple[int, int]) -> list[Track]:
    """Sizes and motions with which no shape is covered for long, nor at its begin or end."""
    while True:
        tracks: list[Track] = []
        for event in events:
            start, stop = (round(second * fps) for second in event.span)
            colour, shape = pair_of(event)
            radius, angle = rng.uniform(0.11, 0.2) * min(size), rng.uniform(-0.4, 0.4)
            for _ in range(40):
                track = Track(shape, COLOURS[colour], radius, angle, start, stop, draw_motion(rng))
                if all(_covered(track, other, fps, size) <= _MOST_COVERED for other in tracks):
                    tracks.append(track)
                    break
        if len(tracks) == len(events):
            return tracks


def _covered(a: Track, b: Track, fps: int, size: tuple[int, int]) -> float:
    """The larger share of a track's time spent too close to the other, plus 1 where one appears or leaves so."""
    frames = np.arange(max(a.start_index, b.start_index), min(a.stop_index, b.stop_index))
    apart = np.hypot(*(a.centres(frames / fps, size) - b.centres(frames / fps, size)).T)
    close = apart < 0.8 * (a.radius + b.radius)
    shortest = min(a.stop_index - a.start_index, b.stop_index - b.start_index)
    return float(close.sum() / shortest + (close[:1] | close[-1:]).any())


def _annotations(scenes: dict[Path, Scene], split_number: int) -> dict[str, Any]:
    """File name → content: all that is shown, and LITA's layouts."""
    files: dict[str, Any] = {"scenes.json": {}, "dvc.json": {}, "rtl.json": [], "event_loc.json": [], "vidqa.json": []}
    for path, scene in scenes.items():
        vid, rng = path.stem, np.random.default_rng([scene.seed, split_number, 1])
        seconds, events = scene.num_frames / scene.fps, scene.events
        sizes = {"fps": scene.fps, "num_frames": scene.num_frames, "width": scene.size[0], "height": scene.size[1]}
        named = [(event, *pair_of(event)) for event in events]
        told = [{"name": name_of(e), "colour": c, "shape": s, **asdict(e.span)} for e, c, s in named]
        files["scenes.json"][vid] = {"duration": seconds, **sizes, "events": told}
        captions = {"timestamps": [[*e.span] for e in events], "sentences": [e.text for e in events]}
        files["dvc.json"][vid] = {"duration": seconds, **captions}
        # A shifted clip is asked about the pair no training clip showed; elsewhere there is none.
        unseen = tuple(event for event in events if pair_of(event) in HELD_OUT)
        for task, asked in (("rtl", events), ("event_loc", unseen or events)):
            for turn in TASKS[task](Record(vid, vid, path, seconds, asked, ""), rng):
                entry = {"vid": vid, "question": turn.question, "answer": turn.answer, "task": task}
                files[f"{task}.json"].append(entry | {"duration": seconds, "question_id": f"{vid}_{task}"})
        turns = draw_turns(Record(vid, vid, path, seconds, events, ""), rng, 3, {"vidqa": 1.0})
        files["vidqa.json"].append({"video": vid, "QA": [{"q": t.question, "a": t.answer} for t in turns]})
    return files
