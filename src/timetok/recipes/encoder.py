"""Stage one of the shapes recipe: a frame encoder that knows which shapes a frame shows.

LITA freezes a CLIP tower; nothing of the kind can be shipped in 5 MB, so a small one is trained here on
single frames. Its head reads the *mean* over patches, because that is what a fast token is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import StackDataset, default_collate
from tqdm import tqdm
from transformers import TrainingArguments

from timetok.atomic import replacing
from timetok.recipes.hf import fit
from timetok.recipes.shapes import ClipRecord
from timetok.recipes.tasks import COLOUR_NAMES, SEEN_PAIRS, SHAPES, Event
from timetok.video import read_frames
from timetok.vision import FrameEncoder, FrameTransform

_COLUMNS = {name: k for k, name in enumerate([*SEEN_PAIRS, *COLOUR_NAMES, *SHAPES])}


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
    """A frame encoder with a linear head on the mean of its patches; the head is thrown away afterwards."""

    def __init__(self, encoder: FrameEncoder, transform: FrameTransform) -> None:
        super().__init__()
        self.encoder, self.transform = encoder, transform
        self.head = nn.Linear(encoder.width, len(_COLUMNS))

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """uint8 ``[b c s s]`` and several-hot ``[b k]`` → loss and logits."""
        logits = self.head(self.encoder.frames(self.transform.normalise(pixels)).mean(1))
        return {"loss": binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def train_encoder(
    records: Sequence[ClipRecord],
    encoder: FrameEncoder,
    transform: FrameTransform,
    arguments: TrainingArguments,
    *,
    frames_per_clip: int,
) -> None:
    """Train an encoder in place, on single frames spread over every clip, and switch it to evaluation mode.

    The weights are left in ``encoder.safetensors`` beside ``arguments.output_dir``, and only read where they are.
    """
    path = Path(str(arguments.output_dir)).with_name("encoder.safetensors")
    if not path.exists():
        pixels, targets = [], []
        for record in tqdm(records, desc="frames for the encoder"):
            frames = read_frames(record.path, num_frames=min(frames_per_clip, record.num_frames))
            pixels.append(transform.resize(frames.data))
            targets.append(frame_targets(record.events, frames.times_seconds.numpy()))
        columns: dict[str, Any] = {"pixels": torch.cat(pixels), "labels": torch.cat(targets)}
        model, data = FrameClassifier(encoder, transform), StackDataset(**columns)
        fit(model, arguments, train_dataset=data, data_collator=default_collate)
        with replacing(path) as partial:
            save_file(encoder.state_dict(), partial)
    encoder.load_state_dict(load_file(path))
    encoder.eval()
