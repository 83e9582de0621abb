"""Clips of shapes as the grid sees them: painted, encoded once by the bundled model's frozen encoder, then only read.

Frames are painted and not decoded, which is what half the time of the recipe's cache goes into. Shapes: t frames,
p patches, e vision width.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from shapes_world.features import CachedClip
from shapes_world.painting import Scene, render_frames
from shapes_world.scenes import Split, draw_scene
from timetok.atomic import replacing
from timetok.lita.answer import Localizer


@dataclass(frozen=True)
class Clips:
    """So many scenes of a split, of which at most ``num_frames`` frames a clip are kept, every k-th, k whole."""

    split: Split
    seed: int
    num_clips: int
    num_frames: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.seed}-{self.num_clips}-{self.num_frames}"

    def scenes(self) -> list[Scene]:
        return [draw_scene(self.seed * 1_000_000 + k, self.split) for k in range(self.num_clips)]


def encode(scenes: Sequence[Scene], num_frames: int) -> list[Tensor]:
    """Features float16 ``[t p e]`` of each scene, on one thread."""
    torch.set_num_threads(1)
    bundled = Localizer.load()
    encoder, transform, found = bundled.model.model.vision, bundled.processor.frame_transform, []
    for scene in scenes:
        pixels = render_frames(scene, range(0, scene.num_frames, -(-scene.num_frames // num_frames)))
        with torch.inference_mode():
            frames = transform(torch.from_numpy(pixels).permute(0, 3, 1, 2))
            found.append(encoder(frames.unsqueeze(0))[0].half())
    return found


def fill(clips: Clips, folder: Path, *, workers: int) -> None:
    """Encode clips, unless that was done."""
    if (folder / f"{clips.name}.safetensors").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    scenes = clips.scenes()
    parts = [scenes[k : k + 10] for k in range(0, len(scenes), 10)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        work = pool.map(partial(encode, num_frames=clips.num_frames), parts)
        features = [each for part in tqdm(work, total=len(parts), desc=clips.name) for each in part]
    write(clips, features, folder)


def write(clips: Clips, features: Sequence[Tensor], folder: Path) -> None:
    """Features of every clip into one file, which appears whole."""
    with replacing(folder / f"{clips.name}.safetensors") as path:
        save_file({"features": torch.cat(list(features))}, path)


@cache
def read(clips: Clips, folder: Path) -> list[CachedClip]:
    """The clips, once a process; their features are mapped from the file, whose pages processes share."""
    with safe_open(folder / f"{clips.name}.safetensors", "pt") as file:
        features = file.get_tensor("features")
    scenes = clips.scenes()
    strides = [-(-scene.num_frames // clips.num_frames) for scene in scenes]
    counts = [len(range(0, scene.num_frames, stride)) for scene, stride in zip(scenes, strides, strict=True)]
    parts = features.split(counts)
    return [
        CachedClip(part, scene.fps / stride, scene.events)
        for part, scene, stride in zip(parts, scenes, strides, strict=True)
    ]
