"""What is written beside a trained model: how it came to be, as JSON, as a curve and as a model card."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from timetok import __version__, plots
from timetok.atomic import write_json
from timetok.recipes.tasks import SEEN_PAIRS

_CARD = Path(__file__).with_name("card.md")  # its braces are filled in


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
    text = _CARD.read_text(encoding="utf-8").format(**facts | told)
    (folder / "README.md").write_text(text, encoding="utf-8")
