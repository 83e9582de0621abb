"""What a language model of shapes is trained on: a frozen encoder's features of every clip, and cuts of clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor

from shapes_world.painting import Scene
from shapes_world.scenes import cut
from shapes_world.tasks import draw_turns
from timetok.recipes.cache import FeatureCache, weights_digest
from timetok.recipes.records import Event, Record
from timetok.recipes.tasks import Row, Task, Turn
from timetok.video import read_frames, spread
from timetok.vision import FrameEncoder, FrameTransform

_SHORTEST_EVENT = 0.05  # of a cut: what is shown for less is too easily missed to be asked about
_FEWEST_FRAMES = 30


@dataclass(frozen=True)
class CachedClip:
    """What one clip shows, and float16 features ``[frames p e]`` of its frames, ``fps`` of them a second."""

    features: Tensor
    fps: float
    events: tuple[Event, ...]


def cache_features(
    scenes: Mapping[Path, Scene],
    encoder: FrameEncoder,
    transform: FrameTransform,
    folder: Path,
    *,
    frames_per_clip: int,
) -> list[CachedClip]:
    """Features of every clip of `write_dataset`, encoded into a `FeatureCache`, or only read where they are there.

    Clips of more than ``frames_per_clip`` frames keep every k-th, k whole.
    """
    strides = {video: -(-scene.num_frames // frames_per_clip) for video, scene in scenes.items()}
    device = next(encoder.parameters()).device

    def encode(video: Path) -> Tensor:
        frames = read_frames(video, num_frames=scenes[video].num_frames).data[:: strides[video]]
        with torch.inference_mode():
            return encoder(transform(frames).to(device).unsqueeze(0))[0].half()

    settings = {"encoder": weights_digest(encoder), "transform": repr(transform), "frames_per_clip": frames_per_clip}
    cache = FeatureCache(folder, settings)
    cache.fill(scenes, encode)
    return [CachedClip(cache[each], scene.fps / strides[each], scene.events) for each, scene in scenes.items()]


def draw_cut(clip: CachedClip, rng: Generator, num_frames: int) -> tuple[Tensor, float, tuple[Event, ...]]:
    """What a shorter file of the same recording would show: features ``[num_frames p e]``, its duration, its events."""
    total = len(clip.features)
    for attempt in range(21):
        whole = attempt == 20 or rng.random() < 0.3
        length = total if whole else int(rng.integers(min(_FEWEST_FRAMES, total), total + 1))
        start = int(rng.integers(0, total - length + 1))
        duration = length / clip.fps
        events = cut(clip.events, start / clip.fps, (start + length) / clip.fps)
        if events and all(event.span.duration_seconds >= _SHORTEST_EVENT * duration for event in events):
            break
    return clip.features[torch.from_numpy(start + spread(length, num_frames))], duration, events


@dataclass(frozen=True)
class Cuts:
    """Source of a `Mixture`: ``num_turns`` questions about ``num_frames`` of a random cut of a random clip."""

    clips: Sequence[CachedClip]
    num_frames: int
    num_turns: int

    def __call__(self, rng: Generator, rates: Mapping[str, float], tasks: Mapping[str, Task]) -> tuple[list[Turn], Row]:
        """The questions, and what is shown of the cut."""
        features, duration, events = draw_cut(self.clips[int(rng.integers(len(self.clips)))], rng, self.num_frames)
        turns = draw_turns(Record("", "", None, duration, events, ""), rng, self.num_turns, rates, tasks)
        return turns, {"duration_seconds": duration, "video_features": features.float()}
