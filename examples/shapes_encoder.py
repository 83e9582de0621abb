"""The frozen frame encoder of the shapes recipe, trained on single frames: what each shows, in colours and shapes.

LITA freezes CLIP's tower; a small one stands in for it, which comes with timetok inside the bundled model. It was
trained as here, on the 3000 clips of the recipe, by labels that name the shapes and colours to be seen.

Run: python examples/shapes_encoder.py --clips 40 --steps 40    # defaults: the bundled one's, 3000 clips, 1000 steps
Use: timetok train shapes --set data.tower=FOLDER/encoder.safetensors
"""

import argparse
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import StackDataset, default_collate
from tqdm import tqdm
from transformers import TrainingArguments, set_seed

from shapes_world.scenes import write_dataset
from shapes_world.tasks import COLOUR_NAMES, SEEN_PAIRS, SHAPES, pair_of
from timetok.atomic import replacing
from timetok.recipes.train import fit, load_preset
from timetok.video import read_frames
from timetok.vision import FrameEncoder, FrameTransform

COLUMNS = {name: k for k, name in enumerate([*SEEN_PAIRS, *COLOUR_NAMES, *SHAPES])}


def frame_targets(events, times_seconds):
    """What a frame shows, as several-hot rows over pairs, colours and shapes: float32 [t k]."""
    targets = np.zeros((len(times_seconds), len(COLUMNS)), dtype=np.float32)
    instants = times_seconds + 1e-6  # frame times come from integer time stamps, spans from divisions
    for event in events:
        seen = (event.span.start <= instants) & (instants < event.span.end)
        for name in (pair_of(event), *pair_of(event)):
            targets[seen, COLUMNS[name]] = 1
    return torch.from_numpy(targets)


class FrameClassifier(torch.nn.Module):
    """A frame encoder with a linear head, thrown away later, on the mean of its patches, as a fast token is."""

    def __init__(self, encoder, transform):
        super().__init__()
        self.encoder, self.transform = encoder, transform
        self.head = torch.nn.Linear(encoder.width, len(COLUMNS))

    def forward(self, pixels, labels):
        """uint8 [b c s s] and several-hot [b k] → loss and logits."""
        logits = self.head(self.encoder.frames(self.transform.normalise(pixels)).mean(1))
        return {"loss": binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def main(options):
    preset = load_preset(str(Path(__file__).with_name("shapes.toml")))
    scenes = write_dataset(options.out / "clips", num_clips=options.clips, split="train", seed=0, workers=2)
    set_seed(0)
    encoder, transform = FrameEncoder(**preset["vision"]), FrameTransform(**preset["transform"])
    model = FrameClassifier(encoder, transform)
    pixels, labels = [], []
    for path, scene in tqdm(scenes.items(), desc="frames"):
        frames = read_frames(path, num_frames=min(options.frames, scene.num_frames))
        pixels.append(transform.resize(frames.data))
        labels.append(frame_targets(scene.events, frames.times_seconds.numpy()))
    data = StackDataset(pixels=torch.cat(pixels), labels=torch.cat(labels))
    schedule = {"learning_rate": 3e-3, "lr_scheduler_type": "cosine", "warmup_steps": options.steps * 6 // 100}
    arguments = TrainingArguments(
        str(options.out / "encoder"), **schedule, max_steps=options.steps, per_device_train_batch_size=options.batch,
        weight_decay=1e-2, seed=0, logging_steps=max(options.steps // 20, 1), save_steps=200, save_total_limit=2,
        report_to=[], remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    log = fit(model, arguments, train_dataset=data, data_collator=default_collate)  # goes on from a checkpoint
    losses = [entry["loss"] for entry in log if "loss" in entry]
    with replacing(options.out / "encoder.safetensors") as partial:
        save_file(encoder.state_dict(), partial)
    print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last; {options.out / 'encoder.safetensors'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(gettempdir()) / "shapes_encoder", help="clips, encoder")
    parser.add_argument("--clips", type=int, default=3000)
    parser.add_argument("--frames", type=int, default=24, help="a clip")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=160, help="frames a step")
    main(parser.parse_args())
