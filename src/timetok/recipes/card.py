"""What is written beside a trained model: how it came to be, as JSON, as a curve and as a model card."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from timetok import __version__, plots
from timetok.atomic import write_json
from timetok.recipes.tasks import SEEN_PAIRS

_CARD = """---
license: apache-2.0
library_name: timetok
tags: [video, temporal-grounding, LITA]
---
# A tiny LITA of shapes

A LITA (arXiv 2403.19046) of {parameters:,} parameters, trained from scratch on synthetic clips of coloured shapes by
`timetok train shapes`; the preset, whole, is in `training.json`.

**It knows** when one of {num_pairs} coloured shapes (circles, squares, triangles, crosses, rings) is visible in a clip
of a few seconds to a few minutes, and which came first, last, before or after another. **It knows nothing else**: no
people, no objects, no speech, no other wording than a few dozen question forms, and the sentence it may write after
the times often names the wrong shape.

| | |
|---|---|
| steps x conversations | {steps} |
| time | {minutes:.0f} minutes of language-model training (its last part, where it was interrupted) on {device} |
| loss | {first:.3f} at the start, {last:.3f} at the end (`curve.png`) |
| seed | {seed} |
| versions | {versions} |
| differs from LITA's defaults | time markers: {markers}; soft time targets: sigma = {sigma} |

Scores, baselines and the command that measured them are in the README of timetok.
"""


def write_card(
    folder: Path,
    preset: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    *,
    minutes: float,
    parameters: int,
    device: str,
) -> None:
    """Write ``training.json``, ``curve.png`` and ``README.md`` into a model folder.

    ``log`` is the Trainer's; ``minutes`` are those of the last part where training was interrupted.
    """
    points = [(entry["step"], float(entry["loss"])) for entry in log if "loss" in entry]
    steps, losses = zip(*points, strict=True)
    trainers = [stage["trainer"] for stage in preset["stages"]]
    versions = {name: version(name) for name in ("torch", "transformers", "timm", "accelerate")}
    facts: dict[str, Any] = {
        "steps": sum(trainer["max_steps"] for trainer in trainers),
        "minutes": round(minutes, 1),
        "device": device,
        "parameters": parameters,
        "versions": {"timetok": __version__, **versions, "python": platform.python_version()},
    }
    write_json(folder / "training.json", {**facts, "preset": preset, "curve": points})
    plots.save(plots.curve(steps, losses, ylabel="training loss"), folder / "curve.png")
    told = {
        "num_pairs": len(SEEN_PAIRS),
        "steps": ", then ".join(f"{one['max_steps']} x {one['per_device_train_batch_size']}" for one in trainers),
        "first": losses[0],
        "last": losses[-1],
        "seed": preset["data"]["seed"],
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        "markers": "on" if preset["model"]["time_markers"] else "off",
        "sigma": preset["loss"]["sigma"],
    }
    (folder / "README.md").write_text(_CARD.format(**facts | told), encoding="utf-8")
