"""Training from a feature cache against training from mp4 files: samples a second, at equal weights.

    python benchmarks/recipe.py      # checks, then times; writes results/recipe.csv and docs/recipe.md

A LITA with a ViT of 22 M at 224/14 and a Llama of 28 M in float32, 100 frames of 60 s in 720p, batches of 2. Both train
the same samples from the same weights; their losses must be equal before anything is timed. Target: 5 times.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from harness import ROOT, add_rows, markdown, provenance, read_rows, write_between
from torch.optim import SGD

from lita import build, write_videos
from timetok import Span
from timetok.recipes.cache import FeatureCache, weights_digest
from timetok.recipes.records import Event, Record
from timetok.recipes.tasks import TASKS, Mixture, Videos
from timetok.recipes.train import pooled

BATCH = 2


def losses(model, mixture: Mixture, steps: int) -> tuple[list[float], float]:
    """Of so many optimiser steps, with the seconds they took."""
    optimizer = SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    found, start = [], time.perf_counter()
    for step in range(steps):
        batch = mixture.collate([mixture[k] for k in range(step * BATCH, step * BATCH + BATCH)])
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found, time.perf_counter() - start


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="from mp4; ten times as many from the cache")
    options = parser.parse_args()
    localizer, _ = build("cpu")
    model, processor = localizer.model, localizer.processor
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    with TemporaryDirectory() as name:
        folder = Path(name)
        videos = write_videos(folder, 2)
        event = Event("A pattern moves.", Span(10.0, 20.0))
        records = [Record(path.stem, path.stem, path, 60.0, (event,), "") for path in videos]
        cache = FeatureCache(folder / "features", {"encoder": weights_digest(model.model.vision)})
        began = time.perf_counter()
        cache.fill(videos, lambda path: pooled(model, processor, path))
        filling = (time.perf_counter() - began) / len(videos)
        told = {"tasks": TASKS, "rates": {"films": {"event_loc": 1.0}}, "processor": processor, "seed": 0}
        results = {}
        for kind, source in (("mp4", Videos(records, processor)), ("cache", Videos(records, processor, cache))):
            steps = options.steps * (10 if kind == "cache" else 1)
            mixture = Mixture(sources={"films": source}, num_samples=steps * BATCH, **told)
            model.load_state_dict(start)
            model.train()
            found, seconds = losses(model, mixture, steps)
            results[kind] = found, steps * BATCH / seconds
            print(kind, results[kind])
        size = sum(file.stat().st_size for file in (folder / "features").glob("*.safetensors"))
    assert results["cache"][0][: options.steps] == results["mp4"][0], "the two must train alike"
    mp4, cached = results["mp4"][1], results["cache"][1]
    row = {
        "case": "training on 100 frames of 60 s in 720p",
        "from_mp4": f"{mp4:.3f}",
        "from_cache": f"{cached:.3f}",
        "speedup": f"{cached / mp4:.1f}",
        "target": ">= 5",
        "seconds_to_fill_a_video": f"{filling:.1f}",
        "mib_a_video": f"{size / len(videos) / 2**20:.2f}",
        **provenance(),
    }
    add_rows("recipe", [row], key=["case"])
    names = {"from_mp4": "samples/s from mp4", "from_cache": "from the cache", "speedup": "times", "target": "target"}
    names |= {"seconds_to_fill_a_video": "s to cache a video", "mib_a_video": "MiB a video"}
    table = markdown(list(names.values()), [[each[key] for key in names] for each in read_rows("recipe")])
    write_between(ROOT / "docs" / "recipe.md", "recipe table", table)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
