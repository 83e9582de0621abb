"""Synthetic videos: coloured shapes that appear, move, overlap and leave, before moving backgrounds."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from timetok.atomic import read_json, replacing, write_json
from timetok.errors import ArgumentError, DataError
from timetok.recipes import painting
from timetok.recipes.painting import RGB, Background, Pixels, Track
from timetok.recipes.tasks import HELD_OUT, SHAPES, TASKS, Event, sample_turns
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


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a written dataset, where it lies, and its events sorted by start."""

    vid: str
    path: Path
    fps: int
    num_frames: int
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about one clip; equal seeds and options give equal scenes.

    Frame i stands at ``i / fps`` seconds. Events are sorted by start, tracks of events and distractors as drawn.
    """

    seed: int
    width: int
    height: int
    fps: int
    num_frames: int
    events: tuple[Event, ...]
    tracks: tuple[Track, ...]
    background: Background

    @property
    def duration_seconds(self) -> float:
        """Length of the whole clip in seconds."""
        return self.num_frames / self.fps


def draw_scene(
    seed: int,
    split: Split = "train",
    *,
    duration_seconds: float | None = None,
    fps: int | None = None,
    size: tuple[int, int] | None = None,
) -> Scene:
    """Draw one scene: 2 to 5 events, distractors and a background.

    ``train`` and ``test`` share one distribution and no seed; ``shifted`` is longer, has other frame rates and
    sizes, and shows at least one pair of `HELD_OUT`, which the others never show. The seed is any non-negative integer.
    Drawn where None are the duration, at least 3 s and rounded to whole frames, the frames a second, at least 2, and
    the size, width and height in pixels, even and at least 64. Outside these bounds, ArgumentError is raised.

    >>> scene = draw_scene(3, "test", duration_seconds=10.0, fps=8)
    >>> scene.num_frames
    80
    """
    if split not in _SPLIT_NUMBERS or seed < 0:
        raise ArgumentError(f"got seed {seed}, split {split!r}; expected seed >= 0, split in {sorted(_SPLIT_NUMBERS)}")
    rng = np.random.default_rng([seed, _SPLIT_NUMBERS[split]])
    drawn_seconds, drawn_fps, drawn_size = _draw_format(rng, split)
    duration_seconds = drawn_seconds if duration_seconds is None else duration_seconds
    fps, size = drawn_fps if fps is None else fps, drawn_size if size is None else size
    if duration_seconds < 3 or fps < 2 or min(size) < 64 or size[0] % 2 or size[1] % 2:
        raise ArgumentError(f"got {duration_seconds} s, {fps} fps, size {size}; expected >= 3 s, >= 2 fps, even >= 64")
    num_frames = round(duration_seconds * fps)
    shown = _draw_events(rng, num_frames, fps, hidden_pairs=split == "shifted")
    tracks = _draw_tracks(rng, shown, fps, size)
    distractors = [painting.draw_distractor(rng, num_frames, min(size)) for _ in range(rng.integers(4))]
    background = painting.draw_background(rng, size)
    events = tuple(Event(*pair, Span(start / fps, stop / fps)) for pair, start, stop in shown)
    return Scene(seed, *size, fps, num_frames, events, (*distractors, *tracks), background)


def render_frames(scene: Scene, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Pixels:
    """Paint some frames, in any order: uint8 [t h w 3]; ArgumentError if one is not of ``0 .. num_frames - 1``."""
    index = np.asarray(indices, dtype=np.int64)
    if index.size and not (index.min() >= 0 and index.max() < scene.num_frames):
        raise ArgumentError(f"indices reach from {index.min()} to {index.max()}; expected 0 .. {scene.num_frames - 1}")
    return painting.paint_frames(scene.tracks, scene.background, index, fps=scene.fps, size=(scene.width, scene.height))


def write_clip(scene: Scene, path: str | Path) -> None:
    """Write a scene as an H.264 mp4 (yuv420p); the file appears under its name only when it is complete."""
    options = {"preset": "veryfast", "crf": str(20 + scene.seed % 7), "g": str(2 * scene.fps), "threads": "1"}
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(scene.fps), options=options)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        for first in range(0, scene.num_frames, 32):
            for pixels in render_frames(scene, range(first, min(first + 32, scene.num_frames))):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def write_dataset(folder: str | Path, *, num_clips: int, split: Split, seed: int, workers: int = 1) -> None:
    """Write clips and their annotations; an interrupted call continues where it stopped.

    First the JSON: ``scenes.json`` (what `read_scenes` reads) and, in LITA's layouts, ``dvc.json``, ``rtl.json`` and
    ``event_loc.json`` (evaluation, one question a clip), ``vidqa.json``. Then ``videos/{split}_{k:05d}.mp4``.

    One folder holds one split and one non-negative seed, which decides every byte of JSON and every pixel painted, or
    DataError is raised; a later call may ask for more clips. ``workers`` threads encode.
    """
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    scenes = {f"{split}_{k:05d}": draw_scene(seed * 1_000_000 + k, split) for k in range(num_clips)}
    files = _annotations(scenes, _SPLIT_NUMBERS[split])
    if (folder / "scenes.json").exists():
        earlier, entries = read_json(folder / "scenes.json", dict, "what write_dataset writes"), files["scenes.json"]
        common = earlier.keys() & entries.keys()
        if (earlier and entries and not common) or any(earlier[vid] != entries[vid] for vid in common):
            raise DataError(f"{folder} holds clips of another seed or split; choose another folder, or remove it")
    for name, content in files.items():
        write_json(folder / name, content)
    paths = {vid: folder / "videos" / f"{vid}.mp4" for vid in scenes}
    missing = [vid for vid, path in paths.items() if not path.exists()]
    with ThreadPoolExecutor(workers) as pool:
        written = pool.map(lambda vid: write_clip(scenes[vid], paths[vid]), missing)
        list(tqdm(written, total=num_clips, initial=num_clips - len(missing), desc="clips"))


def read_scenes(folder: str | Path) -> dict[str, ClipRecord]:
    """Read back what `write_dataset` wrote: video id → record; DataError if it does not follow its schema."""
    folder = Path(folder)
    records = {}
    for vid, entry in read_json(folder / "scenes.json", dict, "what write_dataset writes").items():
        try:
            events = tuple(Event(e["colour"], e["shape"], Span(e["start"], e["end"])) for e in entry["events"])
            fps, num_frames = int(entry["fps"]), int(entry["num_frames"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder}/scenes.json: {vid!r} does not follow the schema ({error!r})") from error
        records[vid] = ClipRecord(vid, folder / "videos" / f"{vid}.mp4", fps, num_frames, events)
    return records


def cut(record_events: Sequence[Event], start_seconds: float, stop_seconds: float) -> tuple[Event, ...]:
    """The events of a sub-clip: shifted to its begin, clipped to its ends, unseen ones left out.

    ArgumentError is raised where the sub-clip has no positive length or begins before the clip.

    >>> cut([Event("red", "circle", Span(1.0, 6.0))], 2.0, 5.0)[0].span
    Span(start=0.0, end=3.0)
    """
    if not 0 <= start_seconds < stop_seconds:
        raise ArgumentError(f"sub-clip is [{start_seconds}, {stop_seconds}]; expected 0 <= start < stop")
    kept = []
    for event in record_events:
        start, end = max(event.span.start, start_seconds), min(event.span.end, stop_seconds)
        if end - start > 1e-6:
            kept.append(replace(event, span=Span(start - start_seconds, end - start_seconds)))
    return tuple(kept)


def _draw_format(rng: np.random.Generator, split: Split) -> tuple[float, int, tuple[int, int]]:
    if split == "shifted":
        sizes, fps, seconds = [(176, 144), (208, 112)], [5, 15], (90.0, 180.0)
    else:
        sizes, fps, seconds = [(160, 120), (128, 128), (192, 108)] * 5 + [(320, 240)], [6, 8, 10, 12], (5.0, 90.0)
    duration = float(np.exp(rng.uniform(*np.log(seconds))))
    return duration, fps[rng.integers(len(fps))], sizes[rng.integers(len(sizes))]


# A colour and a shape, and the frames [start, stop) in which it is visible.
_Shown: TypeAlias = tuple[tuple[str, str], int, int]


def _draw_events(rng: np.random.Generator, num_frames: int, fps: int, *, hidden_pairs: bool) -> list[_Shown]:
    """Unique pairs, sorted by start."""
    num = int(rng.integers(2, 6))
    allowed = [pair for pair in product(COLOURS, SHAPES) if hidden_pairs or pair not in HELD_OUT]
    pairs = [allowed[i] for i in rng.choice(len(allowed), num, replace=False)]
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
            return list(zip(pairs, starts.tolist(), stops.tolist(), strict=True))


def _draw_tracks(rng: np.random.Generator, shown: Sequence[_Shown], fps: int, size: tuple[int, int]) -> list[Track]:
    """Sizes and motions with which no shape is covered for long, nor at its begin or end."""
    while True:
        tracks: list[Track] = []
        for (colour, shape), start, stop in shown:
            radius, angle = rng.uniform(0.11, 0.2) * min(size), rng.uniform(-0.4, 0.4)
            for _ in range(40):
                track = Track(shape, COLOURS[colour], radius, angle, start, stop, painting.draw_motion(rng))
                if all(_covered(track, other, fps, size) <= _MOST_COVERED for other in tracks):
                    tracks.append(track)
                    break
        if len(tracks) == len(shown):
            return tracks


def _covered(a: Track, b: Track, fps: int, size: tuple[int, int]) -> float:
    """The larger share of a track's time spent too close to the other, plus 1 where one appears or leaves so."""
    frames = np.arange(max(a.start_index, b.start_index), min(a.stop_index, b.stop_index))
    if not len(frames):
        return 0.0
    apart = np.hypot(*(a.centres(frames / fps, size) - b.centres(frames / fps, size)).T)
    close = apart < 0.8 * (a.radius + b.radius)
    shortest = min(a.stop_index - a.start_index, b.stop_index - b.start_index)
    return float(close.sum() / shortest + (close[0] or close[-1]))


def _annotations(scenes: dict[str, Scene], split_number: int) -> dict[str, Any]:
    """File name → content: what `read_scenes` reads, and LITA's layouts."""
    files: dict[str, Any] = {"scenes.json": {}, "dvc.json": {}, "rtl.json": [], "event_loc.json": [], "vidqa.json": []}
    for vid, scene in scenes.items():
        rng = np.random.default_rng([scene.seed, split_number, 1])
        seconds, events = scene.duration_seconds, scene.events
        sizes = {name: getattr(scene, name) for name in ("fps", "num_frames", "width", "height")}
        shown = [{"name": e.name, "colour": e.colour, "shape": e.shape, **asdict(e.span)} for e in events]
        files["scenes.json"][vid] = {"duration": seconds, **sizes, "events": shown}
        captions = {"timestamps": [[*e.span] for e in events], "sentences": [e.caption for e in events]}
        files["dvc.json"][vid] = {"duration": seconds, **captions}
        # A shifted clip is asked about the pair no training clip showed; elsewhere there is none.
        unseen = [event for event in events if (event.colour, event.shape) in HELD_OUT]
        for task, asked in (("rtl", events), ("event_loc", unseen or events)):
            if turn := TASKS[task](asked, rng):
                entry = {"vid": vid, "question": turn.question, "answer": turn.answer, "task": task}
                files[f"{task}.json"].append(entry | {"duration": seconds, "question_id": f"{vid}_{task}"})
        turns = sample_turns(events, rng, 3, {"vidqa": 1.0})
        files["vidqa.json"].append({"video": vid, "QA": [{"q": t.question, "a": t.answer} for t in turns]})
    return files
