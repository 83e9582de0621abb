"""SlowFast pooling between the eyes and the language model of LLaVA-OneVision and LLaVA-NeXT-Video.

Run: python examples/slowfast_in_a_vlm.py   (a tiny random LLaVA-OneVision; why no others: docs/training.md)
Needs transformers 5.20 or later.
"""

import math

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from timetok import SlowFastPooler


def put_between(model, pooler):
    """Make the model see what the pooler leaves of its projected features; do it before peft is put around it."""
    encode, ends = model.model.get_video_features, newlines(model)

    def get_video_features(pixel_values_videos, **options):
        outputs = encode(pixel_values_videos, **options)
        length = outputs.pooler_output.shape[1] - ends
        frames, newline = outputs.pooler_output.split([length, ends], dim=1)
        pooled = pooler(frames.unflatten(1, (pixel_values_videos.shape[1], -1)))  # [b t p d] → [b n d]
        outputs.pooler_output = torch.cat([pooled, newline], dim=1)
        return outputs

    model.model.get_video_features = get_video_features


def newlines(model):
    return int(model.config.model_type == "llava_onevision")  # it puts a learned token after the last frame


def shorten(model, batch, pooler):
    """What the processor gave for one video a row, with as many placeholders as there are visual tokens now."""
    videos, frames = batch["input_ids"] == model.config.video_token_id, batch["pixel_values_videos"].shape[1]
    side = math.isqrt((int(videos[0].sum()) - newlines(model)) // frames)
    num = pooler.num_tokens(num_frames=frames, grid=(side, side)) + newlines(model)
    kept = ~videos | (videos.cumsum(1) <= num)
    rows = {name: batch[name][kept].view(len(kept), -1) for name in ("input_ids", "attention_mask")}
    return {**batch, **rows}


def tiny_llava_onevision():
    """A stand-in for yours: random weights, frames of 8 x 8 patches, of which the model itself makes 4 x 4."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 4, **shape},
        text_config={"model_type": "qwen2", "vocab_size": 50, "num_key_value_heads": 2, **shape},
        image_token_id=48,
        video_token_id=49,
    )
    return LlavaOnevisionForConditionalGeneration(config)


def main():
    torch.manual_seed(0)
    model, pooler = tiny_llava_onevision(), SlowFastPooler(num_slow_frames=4, slow_pool=2)
    ids = torch.tensor([[5, 6, *[49] * (32 * 16 + 1), 7, 8]])  # 32 frames of 4 x 4 patches, a newline; your processor's
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["pixel_values_videos"] = torch.randn(1, 32, 3, 32, 32)
    put_between(model, pooler)
    short = shorten(model, batch, pooler)
    print(f"a prompt of {ids.shape[1]} tokens is one of {short['input_ids'].shape[1]}")
    loss = model(**short, labels=short["input_ids"]).loss
    loss.backward()
    answer = model.generate(**short, max_new_tokens=4, do_sample=False)[0, short["input_ids"].shape[1] :]
    print(f"a loss of {loss.item():.2f}; an answer of {len(answer)} tokens")


if __name__ == "__main__":
    main()
