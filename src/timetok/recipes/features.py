"""What a language model of shapes is trained on: a frozen encoder's features of every clip, and cuts of clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from timetok.atomic import replacing
from timetok.lita import LitaProcessor
from timetok.recipes.painting import Scene
from timetok.recipes.shapes import cut
from timetok.recipes.tasks import Event, Turn, sample_turns
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
    scenes: Mapping[Path, Scene], encoder: FrameEncoder, transform: FrameTransform, path: Path, *, frames_per_clip: int
) -> list[CachedClip]:
    """Features of every clip of `write_dataset`, encoded into one safetensors file, or only read where it exists.

    Clips of more than ``frames_per_clip`` frames keep every k-th, k whole.
    """
    strides = {video: -(-scene.num_frames // frames_per_clip) for video, scene in scenes.items()}
    if not path.exists():
        clips, device = {}, next(encoder.parameters()).device
        for video, scene in tqdm(scenes.items(), desc="features of all frames"):
            frames = read_frames(video, num_frames=scene.num_frames).data[:: strides[video]]
            with torch.inference_mode():
                clips[video.stem] = encoder(transform(frames).to(device).unsqueeze(0))[0].half().contiguous().cpu()
        with replacing(path) as partial:
            save_file(clips, partial)
    clips = load_file(path)
    return [CachedClip(clips[each.stem], scene.fps / strides[each], scene.events) for each, scene in scenes.items()]


def draw_cut(clip: CachedClip, rng: np.random.Generator, num_frames: int) -> tuple[Tensor, float, tuple[Event, ...]]:
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


@dataclass(frozen=True, kw_only=True)
class Conversations(Dataset[dict[str, Any]]):
    """Sample i is ``num_frames`` of a cut and ``turns`` about it; ``rates`` say of which tasks, as in `sample_turns`.

    It is drawn from (seed, i) alone, so that any run can resume anywhere.
    """

    clips: Sequence[CachedClip]
    processor: LitaProcessor
    num_samples: int
    num_frames: int
    seed: int
    turns: int
    rates: Mapping[str, float]

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        turns: list[Turn] = []
        while not turns:  # a cut may show nothing that can be asked about
            features, duration, events = draw_cut(self.clips[int(rng.integers(len(self.clips)))], rng, self.num_frames)
            turns = sample_turns(events, rng, self.turns, self.rates)
        texts = self.processor.conversation([(turn.question, turn.answer) for turn in turns], duration)
        return {"turns": texts, "video_features": features.float(), "duration_seconds": duration}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Samples → a batch, padded on the right; a causal model then needs no mask, which is faster on a CPU."""
        batch = self.processor.prompts.collate(rows)
        return {name: batch[name] for name in ("input_ids", "labels", "video_features")}
