"""A random LITA of a few thousand weights, the clips it is asked about, and answers put into its mouth."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from shapes_world.recipe import shapes_tokenizer
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor

NUM_FRAMES, NUM_TIME_TOKENS, CONTEXT = 8, 20, 160
NUM_VIDEO_TOKENS = 8 + 4 * 2 * 2  # one a frame, and four slow frames of 4 x 4 patches averaged by 2 x 2
FPS, CLIP_FRAMES = 10, 20
RESNET: dict[str, Any] = {
    "name": "resnet10t",
    "image_size": 64,
    "model_args": {"channels": [8, 8, 8, 16], "stem_width": 8, "output_stride": 16},
}
VIT: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "image_size": 64,
    "layer": -2,
    "model_args": {"embed_dim": 24, "depth": 3, "num_heads": 2},
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
QWEN2 = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 1}


def tokenizer() -> PreTrainedTokenizerFast:
    """The recipe's tokenizer, a fresh one each time."""
    return shapes_tokenizer()


def build(
    text: dict[str, Any] = LLAMA, vision: dict[str, Any] = RESNET, *, codec: Any = "index", seed: int = 0, **config: Any
) -> tuple[LitaForConditionalGeneration, LitaProcessor]:
    """A model with random weights, in evaluation mode, and its processor."""
    torch.manual_seed(seed)
    transform = {"image_size": vision["image_size"], "crop": "squash"}
    count = NUM_TIME_TOKENS if codec == "index" else 100
    processor = LitaProcessor(
        tokenizer(), num_frames=NUM_FRAMES, num_time_tokens=count, codec=codec, transform=transform, grid=(4, 4)
    )
    ids = {"pad_token_id": processor.tokenizer.pad_token_id, "eos_token_id": processor.tokenizer.eos_token_id}
    length = {"vocab_size": len(processor.tokenizer), "max_position_embeddings": CONTEXT, "bos_token_id": None}
    model = LitaForConditionalGeneration(
        LitaConfig(
            text_config={"initializer_range": 0.2} | text | ids | length,
            vision=vision,
            num_frames=NUM_FRAMES,
            num_time_tokens=count,
            time_token_ids=list(processor.tt.time_token_ids),
            video_token_id=processor.video_token_id,
            **(ids | config),
        )
    )
    return model.eval(), processor


def save(folder: Path, **options: Any) -> Path:
    """A LITA folder."""
    model, processor = build(**options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def noise(num_frames: int = CLIP_FRAMES, seed: int = 0) -> torch.Tensor:
    """uint8 ``[t 3 48 64]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, 3, 48, 64), dtype=torch.uint8, generator=generator)


def write_clip(path: Path, num_frames: int = CLIP_FRAMES) -> Path:
    """An mp4 of two seconds whose brightness rises."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(num_frames):
            picture = np.full((48, 64, 3), 10 * k, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def saying(rows: Sequence[Sequence[int]], likelihoods: Sequence[Sequence[float]] | None = None) -> Any:
    """A ``generate`` that answers with the given ids, each as likely as told (default: one half)."""

    def generate(input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        new = torch.tensor([list(row) for row in rows])
        likely = torch.full(new.shape, 0.5) if likelihoods is None else torch.tensor([list(row) for row in likelihoods])
        logits = []
        for ids, chance in zip(new.T, likely.T, strict=True):
            other = ((1 - chance) / 999).log()[:, None].expand(-1, 1000)  # the rest is shared by the other 999 ids
            logits.append(other.scatter(1, ids[:, None], chance.log()[:, None]))
        return SimpleNamespace(sequences=torch.cat([input_ids, new], dim=1), logits=logits)

    return generate
