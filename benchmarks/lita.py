"""What an answer costs, stage by stage, and against the original's way, written plainly.

    python benchmarks/lita.py               # checks, then times; writes results/lita.csv and results/stages.csv

40 questions over 10 videos of 60 s in 720p. The baseline is the original's way, written plainly: for every question
the video is decoded again, all layers of the tower are computed, 25 600 tokens are projected and then pooled, and the
answer is generated alone. Both decode with the same decoder. On a CPU a ViT of 22 M and a Llama of 28 M in float32;
target: 3 times the questions a second, the same answers. On a GPU CLIP-L/14 and a Llama of 7 B in bfloat16, in which
pooling before or after projecting rounds differently, so the share of equal answers is told; target: 8 times.
"""

import argparse
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import av
import numpy as np
import timm
import torch
from einops import rearrange, reduce
from harness import ROOT, add_rows, markdown, provenance, read_rows, write_between

from shapes_world.recipe import shapes_tokenizer
from timetok.hub import localize_all, read_ahead
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor
from timetok.lita.answer import Localizer
from timetok.video import read_frames

NEW, VOCAB = 24, 32_000
VISION = {
    "cpu": {"name": "vit_small_patch16_224", "layer": -2, "model_args": {"patch_size": 14}},
    "cuda": {"name": "vit_large_patch14_clip_quickgelu_224", "layer": -2, "model_args": {}},
}
LLAMA = {
    "cpu": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 6},
    "cuda": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
}
ASKED = ("red circle", "blue square", "door", "dog", "second speaker")


def questions(num: int) -> list[str]:
    """Of different lengths."""
    return [f"When is the {ASKED[k % 5]} visible{' again' * (k // 5 % 4)} in part {k}?" for k in range(num)]


def build(device: str) -> tuple[Localizer, torch.nn.Module]:
    """A LITA with random weights, and the whole of its tower, as the original computes it."""
    torch.manual_seed(0)
    processor = LitaProcessor(shapes_tokenizer())
    ids = {"pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}
    text = {"model_type": "llama", "vocab_size": VOCAB, "tie_word_embeddings": True, **LLAMA[device], **ids}
    told = {"time_token_ids": processor.tt.time_token_ids, "video_token_id": processor.video_token_id}
    vision, dtype = VISION[device], torch.bfloat16 if device == "cuda" else torch.float32
    config = LitaConfig(text_config=text, vision=vision, **told, **ids)
    with torch.device(device):
        model = LitaForConditionalGeneration(config).to(dtype)
        torch.manual_seed(1)
        whole = timm.create_model(vision["name"], num_classes=0, img_size=224, **vision["model_args"]).to(dtype).eval()
    kept = model.model.vision.tower.state_dict()
    model.model.vision.tower.load_state_dict(
        {name: weight for name, weight in whole.state_dict().items() if name in kept}
    )
    return Localizer(model, processor), whole


@torch.inference_mode()
def original(localizer: Localizer, tower: torch.nn.Module, path: Path, question: str) -> list[int]:
    """One question the original's way: the ids of its answer."""
    model, processor = localizer.model, localizer.processor
    frames = read_frames(path, 100)
    pixels = processor.frame_transform(frames.data).to(model.device, model.dtype)
    layers = [tower.forward_intermediates(part, norm=False, intermediates_only=True) for part in pixels.split(50)]
    features = torch.cat([layer[-2] for layer in layers])
    tokens = model.model.projector(rearrange(features, "t e h w -> t (h w) e"))  # 25 600 of them
    slow = tokens[torch.tensor([0, 33, 66, 99])]
    slow = reduce(slow, "t (h i w j) d -> (t h w) d", "mean", h=8, i=2, w=8, j=2)
    video = torch.cat([reduce(tokens, "t p d -> t d", "mean"), slow])
    batch = processor.prompts([processor.prompt(question)], counts=[len(video)], trusted=False).to(model.device)
    ids = batch["input_ids"]
    embeddings = model.get_input_embeddings()(ids.masked_fill(ids == processor.video_token_id, 0))
    embeddings[ids == processor.video_token_id] = video
    greedy = {"max_new_tokens": NEW, "do_sample": False, "suppress_tokens": [processor.video_token_id]}
    return model.model.lm.generate(inputs_embeds=embeddings, **greedy)[0].tolist()


def original_all(localizer: Localizer, tower: torch.nn.Module, asked: list[tuple[Path, str]]) -> list[list[int]]:
    return [original(localizer, tower, path, question) for path, question in asked]


def ours(localizer: Localizer, asked: dict[Path, list[str]], said: list[list[int]]) -> None:
    """All questions through timetok; ``said`` takes the ids of each answer."""
    with answers_of(localizer, said):
        for group, coming in zip(asked.values(), read_ahead(localizer, list(asked)), strict=True):
            localize_all(coming.result(), group, localizer, max_new_tokens=NEW, batch_size=len(group))


@contextmanager
def answers_of(localizer: Localizer, said: list[list[int]]) -> Iterator[None]:
    """What `Localizer` decodes, as it came."""
    answer = localizer._answer
    localizer._answer = lambda ids, *rest: (said.append(ids), answer(ids, *rest))[1]  # type: ignore[method-assign]
    try:
        yield
    finally:
        del localizer._answer


def write_videos(folder: Path, num: int) -> list[Path]:
    """``num`` files of 60 s in 720p at 24 fps, two of them different: noise that moves before a gradient."""
    rng, paths = np.random.default_rng(0), [folder / f"{k}.mp4" for k in range(num)]
    for path in paths[:2]:
        texture = rng.integers(0, 255, (90, 160, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=24, options={"preset": "veryfast", "g": "48"})
            stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
            for k in range(60 * 24):
                picture = np.roll(texture, (2 * k, 3 * k), (0, 1))[:720, :1280]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            container.mux(stream.encode(None))
    for k, path in enumerate(paths[2:]):
        shutil.copy(paths[k % 2], path)
    return paths


def timed(call: object) -> tuple[float, object]:
    start = time.perf_counter()
    found = call()  # type: ignore[operator]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


@torch.inference_mode()
def stages(localizer: Localizer, path: Path, num: int) -> dict[str, float]:
    """Seconds of each stage for ``num`` questions about one video."""
    model, processor = localizer.model, localizer.processor
    found: dict[str, float] = {}
    found["decode"], frames = timed(lambda: read_frames(path, 100))
    found["resize"], pixels = timed(lambda: processor.frame_transform(frames.data).to(model.device))
    found["tower"], features = timed(lambda: model.model.features(pixels[None]))
    found["pool"], tokens = timed(lambda: model.model.pooler(features))
    found["project"], _ = timed(lambda: model.model.projector(tokens))
    video = model.model.encode_video(features[0])
    shown = [video] * num, questions(num), [frames.duration_seconds] * num
    found["prefill"], _ = timed(lambda: localizer.ask(*shown, max_new_tokens=1))
    whole, _ = timed(lambda: localizer.ask(*shown, max_new_tokens=NEW))
    found["decode tokens"] = max(whole - found["prefill"], 0.0)
    return found


def tabulate(device: str) -> None:
    """The stages as a table in docs/ask.md."""
    rows = [row for row in read_rows("stages") if row["device_kind"] == device]
    numbers = list(dict.fromkeys(row["questions"] for row in rows))
    spent = {
        (row["stage"], row["questions"]): f"{float(row['seconds']):.2f} s, {float(row['share']):.0%}" for row in rows
    }
    lines = [
        [stage, *(spent[stage, number] for number in numbers)] for stage in dict.fromkeys(row["stage"] for row in rows)
    ]
    write_between(
        ROOT / "docs" / "ask.md",
        f"stages on {device}",
        markdown(["", *(f"{n} question{'s' * (n != '1')}" for n in numbers)], lines),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="of the stages and of timetok; the baseline runs once")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    localizer, tower = build(device)
    with TemporaryDirectory() as folder:
        paths = write_videos(Path(folder), options.videos)
        asked = {path: questions(40)[4 * k : 4 * k + 4] for k, path in enumerate(paths)}
        flat = [(path, question) for path, group in asked.items() for question in group]

        for num in (1, 10, 40):
            runs = [stages(localizer, paths[0], num) for _ in range(options.rounds)]
            spent = {name: median(run[name] for run in runs) for name in runs[0]}
            shares = {name: f"{seconds / sum(spent.values()):.3f}" for name, seconds in spent.items()}
            rows = [
                {"questions": num, "stage": name, "seconds": f"{value:.3f}", "share": shares[name]}
                for name, value in spent.items()
            ]
            add_rows(
                "stages",
                [row | {"device_kind": device} | provenance() for row in rows],
                key=["questions", "stage", "device_kind"],
            )
            print(num, {name: round(value, 3) for name, value in spent.items()})

        times, said = [], []
        for _ in range(options.rounds):
            said = []
            times.append(timed(lambda said=said: ours(localizer, asked, said))[0])
        theirs, expected = timed(lambda: original_all(localizer, tower, flat))
        same = sum(mine[:NEW] == ids for mine, ids in zip(said, expected, strict=True))
        assert same == len(flat) or device == "cuda", f"{same} of {len(flat)} answers are the same"
        row = {
            "case": f"{len(flat)} questions over {len(paths)} videos of 60 s in 720p",
            "seconds": f"{median(times):.2f}",
            "baseline_seconds": f"{theirs:.2f}",
            "speedup": f"{theirs / median(times):.2f}",
            "same_answers": same,
            "target": 3 if device == "cpu" else 8,
            "device_kind": device,
        }
        add_rows("lita", [row | provenance()], key=["case", "device_kind"])
        print(row)
    tabulate(device)


if __name__ == "__main__":
    main()
