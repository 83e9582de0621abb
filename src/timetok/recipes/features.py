"""Stages one and two of the shapes recipe: a frozen frame encoder, its features of every clip, and cuts of clips.

LITA freezes a CLIP tower; nothing of the kind can be shipped in 5 MB, so a small one is trained here on single frames.
A cut is what a shorter file of the same recording would show: some of its frames, its own duration, its events clipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset, StackDataset, default_collate
from tqdm import tqdm
from transformers import TrainingArguments

from timetok.atomic import replacing
from timetok.lita import LitaProcessor
from timetok.recipes.hf import fit
from timetok.recipes.shapes import ClipRecord, cut
from timetok.recipes.tasks import COLOUR_NAMES, SEEN_PAIRS, SHAPES, Event, Turn, sample_turns
from timetok.video import read_frames, spread
from timetok.vision import FrameEncoder, FrameTransform

_COLUMNS = {name: k for k, name in enumerate([*SEEN_PAIRS, *COLOUR_NAMES, *SHAPES])}
_SHORTEST_EVENT = 0.05  # of a cut: what is shown for less is too easily missed to be asked about
_FEWEST_FRAMES = 30


def frame_targets(events: Sequence[Event], times_seconds: NDArray[np.float64]) -> Tensor:
    """What a frame shows, as several-hot rows over pairs, colours and shapes: float32 ``[t k]``."""
    targets = np.zeros((len(times_seconds), len(_COLUMNS)), dtype=np.float32)
    instants = times_seconds + 1e-6  # frame times come from integer time stamps, spans from divisions
    for event in events:
        seen = (event.span.start <= instants) & (instants < event.span.end)
        for name in ((event.colour, event.shape), event.colour, event.shape):
            targets[seen, _COLUMNS[name]] = 1
    return torch.from_numpy(targets)


class FrameClassifier(nn.Module):
    """A frame encoder with a linear head, thrown away later, on the *mean* of its patches, as a fast token is."""

    def __init__(self, encoder: FrameEncoder, transform: FrameTransform) -> None:
        super().__init__()
        self.encoder, self.transform = encoder, transform
        self.head = nn.Linear(encoder.width, len(_COLUMNS))

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """uint8 ``[b c s s]`` and several-hot ``[b k]`` → loss and logits."""
        logits = self.head(self.encoder.frames(self.transform.normalise(pixels)).mean(1))
        return {"loss": binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def train_encoder(
    records: Sequence[ClipRecord], model: FrameClassifier, arguments: TrainingArguments, *, frames_per_clip: int
) -> None:
    """Train a model's encoder in place, on single frames spread over every clip, and switch it to evaluation mode.

    The weights are left in ``encoder.safetensors`` beside ``arguments.output_dir``, and only read where they are.
    """
    path = Path(str(arguments.output_dir)).with_name("encoder.safetensors")
    if not path.exists():
        pixels, targets = [], []
        for record in tqdm(records, desc="frames for the encoder"):
            frames = read_frames(record.path, num_frames=min(frames_per_clip, record.num_frames))
            pixels.append(model.transform.resize(frames.data))
            targets.append(frame_targets(record.events, frames.times_seconds.numpy()))
        columns: dict[str, Any] = {"pixels": torch.cat(pixels), "labels": torch.cat(targets)}
        fit(model, arguments, train_dataset=StackDataset(**columns), data_collator=default_collate)
        with replacing(path) as partial:
            save_file(model.encoder.state_dict(), partial)
    model.encoder.load_state_dict(load_file(path))
    model.encoder.eval()


@dataclass(frozen=True)
class CachedClip:
    """What one clip shows, and float16 features ``[frames p e]`` of its frames, ``fps`` of them a second."""

    features: Tensor
    fps: float
    events: tuple[Event, ...]


def cache_features(
    records: Sequence[ClipRecord], encoder: FrameEncoder, transform: FrameTransform, path: Path, *, frames_per_clip: int
) -> list[CachedClip]:
    """Features of every clip, encoded into one safetensors file, or only read where it exists.

    Clips of more than ``frames_per_clip`` frames keep every k-th, k whole.
    """
    strides = {record.vid: -(-record.num_frames // frames_per_clip) for record in records}
    if not path.exists():
        clips, device = {}, next(encoder.parameters()).device
        for record in tqdm(records, desc="features of all frames"):
            frames = read_frames(record.path, num_frames=record.num_frames).data[:: strides[record.vid]]
            with torch.inference_mode():
                clips[record.vid] = encoder(transform(frames).to(device).unsqueeze(0))[0].half().contiguous().cpu()
        with replacing(path) as partial:
            save_file(clips, partial)
    clips = load_file(path)
    return [CachedClip(clips[record.vid], record.fps / strides[record.vid], record.events) for record in records]


def draw_cut(clip: CachedClip, rng: np.random.Generator, num_frames: int) -> tuple[Tensor, float, tuple[Event, ...]]:
    """A random cut, sampled as a file of its own would be: features ``[num_frames p e]``, duration, events."""
    total = len(clip.features)
    for _ in range(20):
        length = total if rng.random() < 0.3 else int(rng.integers(min(_FEWEST_FRAMES, total), total + 1))
        start = int(rng.integers(0, total - length + 1))
        duration = length / clip.fps
        events = cut(clip.events, start / clip.fps, (start + length) / clip.fps)
        if events and all(event.span.duration_seconds >= _SHORTEST_EVENT * duration for event in events):
            break
    else:
        start, length, duration, events = 0, total, total / clip.fps, clip.events
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
            clip = self.clips[int(rng.integers(len(self.clips)))]
            features, duration, events = draw_cut(clip, rng, self.num_frames)
            turns = sample_turns(events, rng, self.turns, self.rates)
        texts = self.processor.conversation([(turn.question, turn.answer) for turn in turns], duration)
        return {"turns": texts, "video_features": features.float(), "duration_seconds": duration}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Samples → a batch, padded on the right; a causal model then needs no mask, which is faster on a CPU."""
        batch = self.processor.prompts.collate(rows)
        return {name: batch[name] for name in ("input_ids", "labels", "video_features")}
