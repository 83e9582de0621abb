"""A tiny LITA recipe on disk: a language model, eyes, videos and images, annotations in LITA's layouts, a preset."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

import published
import tiny_lm
import tiny_videos

SETS = ("anet", "yc2", "nextqa", "llava", "rtl")
RATES = "{ anet = { dvc = 5, event_loc = 5 }, yc2 = { dvc = 1, event_loc = 1 }, nextqa = { vidqa = 6 }, "
RATES += "llava = { imgqa = 6 }, rtl = { rtl = 6 } }"


def write_data(folder: Path, num_videos: int = 3) -> None:
    """Videos of 6 seconds, two images, and one file in each of LITA's layouts."""
    for name in ("videos", "images"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    vids = [f"v_{k}" for k in range(num_videos)]
    for k, vid in enumerate(vids):
        tiny_videos.write(folder / "videos" / f"{vid}.mp4", 24 + k, fps=4)
    for k in range(2):
        picture = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{k}.jpg")
    captions = {"timestamps": [[0.5, 2.25], [2.0, 5.5]], "sentences": ["A red circle appears.", " It leaves. "]}
    dense = {vid: {"duration": 6.0, **captions} for vid in vids}
    rtl = {vid: {"duration": 6.0, "QA": [{"q": "When is it gone?", "a": "<2.00> <5.50> It left."}]} for vid in vids}
    qa = [{"video": vid, "QA": [{"q": "what is red", "a": "circle"}, {"q": "how many", "a": "one"}]} for vid in vids]
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise."}]
    llava = [{"id": str(k), "image": f"{k}.jpg", "conversations": said} for k in range(2)]
    files = {"anet": dense, "yc2": dense, "nextqa": qa, "llava": llava, "rtl": rtl}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def write_parts(folder: Path) -> None:
    """A language model with its tokenizer in ``lm``, eyes in ``clip``."""
    write_lm(folder / "lm")
    published.clip(folder / "clip")


def write_lm(folder: Path, *, tied: bool = False) -> None:
    """A Llama and its tokenizer."""
    tiny_lm.language_model(tied=tied).save_pretrained(folder)
    tiny_lm.tokenizer().save_pretrained(folder)


def sets(folder: Path) -> str:
    """The ``data.sets`` of a preset."""
    media = {name: folder / ("images" if name == "llava" else "videos") for name in SETS}
    told = (f'{name} = {{ path = "{folder / name}.json", media = "{media[name]}" }}' for name in SETS)
    return f"{{ {', '.join(told)} }}"


def write_preset(folder: Path, **changes: str) -> Path:
    """A preset based on ``lita-7b`` for these files; ``changes`` are of TOML, ``__`` for dots."""
    trainer = (
        "{ max_steps = 4, per_device_train_batch_size = 2, learning_rate = 1e-2, logging_steps = 1, save_steps = 2, "
    )
    trainer += "use_cpu = true }"
    told = {
        "start.lm": f'"{folder / "lm"}"',
        "start.clip": f'"{folder / "clip"}"',
        "start.dtype": '"float32"',
        "data.sets": sets(folder),
        "model.num_frames": "4",
        "model.num_time_tokens": "10",
        "stages.0.num_samples": "8",
        "stages.0.max_length": "480",
        "stages.0.rates": RATES,
        "stages.0.trainer": trainer,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    lines = ['base = "lita-7b"', "[changes]", *(f'"{key}" = {value}' for key, value in told.items())]
    path = folder / f"tiny{len(list(folder.glob('*.toml')))}.toml"
    path.write_text("\n".join(lines))
    return path
