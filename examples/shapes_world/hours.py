"""Hours of shapes: films of many chapters, in which a few named shapes are seen once, for seconds, among others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from shapes_world.painting import Scene, draw_background, draw_distractor
from shapes_world.scenes import draw_tracks, write_clip, write_dataset
from shapes_world.tasks import SEEN_PAIRS, pair_of, shown
from timetok import Span
from timetok.lita.answer import Localizer
from timetok.recipes.cache import weights_digest
from timetok.video import read_frames

FPS, SIZE = 4, (160, 120)
SHORTEST, LONGEST = 5.0, 30.0  # seconds that a shape is visible


@dataclass(frozen=True)
class Film:
    """Chapters that follow each other, and by question when the one shape that it names is visible."""

    chapters: Sequence[Scene]
    truths: Mapping[str, Span]

    @property
    def duration_seconds(self) -> float:
        return sum(chapter.num_frames / chapter.fps for chapter in self.chapters)


def draw_film(seed: int, *, minutes: float = 60.0, num_questions: int = 3) -> Film:
    """Draw chapters of one to three minutes, each with a background and shapes of its own.

    The shapes asked about are visible once, for 5 to 30 seconds; others come and go all the time, as many at once as in
    the clips the bundled model was trained on: none to three.
    """
    rng = np.random.default_rng([seed, 10])
    pairs = [SEEN_PAIRS[k] for k in rng.permutation(len(SEEN_PAIRS))]
    asked, others = pairs[:num_questions], pairs[num_questions:]
    lengths = []
    while sum(lengths) < 60 * minutes:
        lengths.append(float(rng.integers(60, 181)))
    lengths[-1] -= sum(lengths) - 60 * minutes
    if lengths[-1] < 45:  # no chapter for a shape
        lengths[-2:] = [sum(lengths[-2:])]
    places = dict(zip(rng.choice(len(lengths), num_questions, replace=False).tolist(), asked, strict=True))
    chapters, truths, begin = [], {}, 0.0
    for k, seconds in enumerate(lengths):
        chapter, span = _draw_chapter(rng, k, round(seconds * FPS), others, places.get(k))
        chapters.append(chapter)
        if span:
            truths["When is the {} {} visible? Give only the times.".format(*places[k])] = Span(
                begin + span.start, begin + span.end
            )
        begin += chapter.num_frames / FPS
    return Film(chapters, truths)


def _draw_chapter(rng, seed, num_frames, others, asked):
    """A scene of so many frames, and when the shape is visible that is asked for, if one is."""
    seconds = num_frames / FPS
    num = max(round(seconds / 17), 2)
    pairs = [others[k] for k in rng.choice(len(others), num, replace=False)]
    pairs += [asked] if asked else []
    while True:
        lengths = rng.uniform(SHORTEST, LONGEST, len(pairs)).round()
        starts = (rng.uniform(0, 1, len(pairs)) * (seconds - lengths)).round()
        crowd = max(((starts <= start) & (start < starts + lengths)).sum() for start in starts)
        if crowd <= 3:
            break
    rows = sorted(zip(starts.tolist(), lengths.tolist(), pairs, strict=True))
    events = tuple(shown(*pair, Span(start, start + length)) for start, length, pair in rows)
    tracks = draw_tracks(rng, events, FPS, SIZE)
    distractors = [draw_distractor(rng, num_frames, min(SIZE)) for _ in range(rng.integers(4))]
    scene = Scene(seed, SIZE, FPS, num_frames, events, (*distractors, *tracks), draw_background(rng, SIZE))
    return scene, next((event.span for event in events if pair_of(event) == asked), None)


def write_film(film: Film, path: Path) -> None:
    """Write a film as an H.264 mp4, unless it is there."""
    if not path.exists():
        write_clip(film.chapters[0], path, film.chapters[1:])


class ShapesMatcher(torch.nn.Module):
    """A vision-text model of shapes: the bundled model's frame encoder, and a vector for every coloured shape.

    It stands in for CLIP: what a frame fits is what it shows, and a question is the shapes that it names.
    """

    def __init__(self, localizer: Localizer) -> None:
        super().__init__()
        self.encoder, self.transform = localizer.model.model.vision, localizer.processor.frame_transform
        self.size = (self.transform.image_size, self.transform.image_size)
        torch.manual_seed(0)
        self.head = torch.nn.Linear(self.encoder.width, len(SEEN_PAIRS))

    @property
    def name(self) -> str:
        """What tells it from others."""
        return weights_digest(self)

    @torch.no_grad()
    def means(self, pixels):
        """Mean patch of each frame, uint8 [n 3 h w] → [n width], as a fast token is."""
        return self.encoder.frames(self.transform(pixels)).mean(1)

    @torch.no_grad()
    def frames(self, pixels):
        """uint8 [n 3 h w] → how likely each shape is in it, [n e]."""
        return self.head(self.means(pixels)).sigmoid()

    def text(self, question):
        """The shapes that a question names, [e]."""
        return torch.tensor([float(f"{colour} {shape}" in question) for colour, shape in SEEN_PAIRS])

    def fit(self, folder: Path, *, num_clips: int = 200, steps: int = 300) -> "ShapesMatcher":
        """Learn the vectors from training clips, which are written into ``folder``; less than a minute."""
        scenes = write_dataset(folder, num_clips=num_clips, split="train", seed=0, workers=2)
        features, targets = [], []
        for path, scene in scenes.items():
            found = read_frames(path, 24, size=self.size)
            features.append(self.means(found.data))
            instants = found.times_seconds.numpy()[:, None] + 1e-6
            spans = {pair_of(event): event.span for event in scene.events}
            never = Span(1e9, 1e9)
            ends = np.array([[*spans.get(pair, never)] for pair in SEEN_PAIRS])
            targets.append(torch.from_numpy((ends[:, 0] <= instants) & (instants < ends[:, 1])).float())
        x, y = torch.cat(features), torch.cat(targets)
        self.head.requires_grad_(True)
        optimizer = torch.optim.Adam(self.head.parameters(), lr=0.05)
        for _ in range(steps):
            loss = binary_cross_entropy_with_logits(self.head(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return self.eval()
