"""Frame encoders read where they say, and the transform does what Pillow does."""

import json
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from timetok.errors import ArgumentError
from timetok.vision import FrameEncoder, FrameTransform

TINY_VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2}
VIT = "vit_tiny_patch16_224"


def tiny_vit(**options):
    torch.manual_seed(0)
    return FrameEncoder(VIT, image_size=64, model_args=TINY_VIT, **options).eval()


def frames(num_frames=2, height=90, width=120):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_frames, 3, height, width), generator=generator, dtype=torch.uint8)


def by_pillow(frame, side, crop):
    """Resize and crop one frame with Pillow, with LITA's arithmetic for the centre crop."""
    height, width = frame.shape[-2:]
    size = (side, side)
    if crop == "center":
        size = (width * side // min(height, width), height * side // min(height, width))
    image = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return torch.from_numpy(np.array(image.crop((left, top, left + side, top + side)))).permute(2, 0, 1)


@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize("size", [(90, 120), (120, 90), (20, 50), (33, 33)])
def test_resizing_is_pillows(crop, size):
    video = frames(2, *size) // 2 + 64  # Pillow clips between its two passes; nothing here overshoots
    found = FrameTransform(image_size=32, crop=crop).resize(video)
    assert found.dtype == torch.uint8
    expected = torch.stack([by_pillow(frame, 32, crop) for frame in video])
    assert (found.int() - expected.int()).abs().max() <= 2  # Pillow rounds between its two passes


def test_crop_keeps_the_middle_and_squash_keeps_the_borders():
    video = torch.zeros(1, 3, 32, 96, dtype=torch.uint8)
    video[..., 32:64] = 200
    assert (FrameTransform(image_size=32).resize(video) == 200).all()
    squashed = FrameTransform(image_size=32, crop="squash").resize(video)
    assert squashed[..., 0].max() == 0 and squashed[..., -1].max() == 0 and squashed[..., 16].min() == 200


def test_frames_are_resized_one_by_one():
    video, transform = frames(40, 20, 30), FrameTransform(image_size=16)
    assert torch.equal(transform.resize(video), torch.cat([transform.resize(frame[None]) for frame in video]))


def test_normalising_is_the_formula():
    transform = FrameTransform(image_size=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.tensor([(0 - 0.5) / 0.5, (0.2 - 0.25) / 0.25, (1 - 0.0) / 1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(transform.normalise(pixels), expected)


def test_a_call_resizes_and_normalises():
    transform = FrameTransform(image_size=16)
    assert transform(frames()).dtype == torch.float32
    assert torch.equal(transform(frames()), transform.normalise(transform.resize(frames())))


@pytest.mark.parametrize(
    "bad", [frames().float(), frames()[0], frames()[:, :1], torch.zeros(2, 9, 9, 3, dtype=torch.uint8)]
)
def test_frames_of_another_kind_are_refused(bad):
    with pytest.raises(ArgumentError, match=r"frames: expected uint8 \[t 3 h w\], got"):
        FrameTransform().resize(bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"crop": "centre"}, "crop: expected 'center' or 'squash', got 'centre'"), ({"image_size": 0}, "image_size")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        FrameTransform(**options)


def test_transform_survives_json_and_pickle():
    transform = FrameTransform(image_size=16, crop="squash")
    assert pickle.loads(pickle.dumps(transform)) == transform
    again = FrameTransform(**json.loads(json.dumps(asdict(transform))))
    assert torch.equal(again(frames()), transform(frames()))


@pytest.mark.parametrize(("layer", "blocks"), [(-1, 3), (-2, 2), (0, 1)])
def test_features_are_a_blocks_output_without_class_token_or_norm(layer, blocks):
    encoder = tiny_vit(layer=layer)
    pixels = torch.randn(2, 3, 64, 64)
    tower = encoder.tower
    x = tower.norm_pre(tower._pos_embed(tower.patch_embed(pixels)))
    for block in tower.blocks[:blocks]:
        x = block(x)
    torch.testing.assert_close(encoder(pixels[None])[0], x[:, 1:])
    assert (encoder.grid, encoder.width) == ((4, 4), 32)


def test_later_layers_are_not_computed():
    class Explode(nn.Module):
        def forward(self, x):
            raise AssertionError("computed")

    encoder = tiny_vit(layer=-2)
    encoder.tower.blocks[2] = Explode()
    assert encoder(torch.zeros(1, 1, 3, 64, 64)).shape == (1, 1, 16, 32)


def test_patches_stand_row_by_row():
    encoder = FrameEncoder("resnet10t", image_size=64, layer=1).eval()  # stride 4
    pixels = torch.randn(1, 3, 64, 64)
    expected = encoder.tower.forward_intermediates(pixels, indices=[1], intermediates_only=True)[0]
    found = encoder(pixels[None])[0, 0]
    assert encoder.grid == (16, 16)
    torch.testing.assert_close(found[5 * 16 + 3], expected[0, :, 5, 3])


def test_videos_are_encoded_frame_by_frame_whatever_the_chunk():
    pixels = torch.randn(2, 5, 3, 64, 64)
    whole, chunked = tiny_vit()(pixels), tiny_vit(chunk_size=3)(pixels)
    torch.testing.assert_close(whole, chunked)
    torch.testing.assert_close(whole[1, 4], tiny_vit()(pixels[1:, 4:])[0, 0])


@pytest.mark.parametrize(
    ("name", "size"), [("deit_tiny_patch16_224", 64), ("resnet18", 96), ("mobilevit_xxs", 64), ("convnext_atto", 64)]
)
def test_models_of_many_kinds_tell_their_own_shape(name, size):
    encoder = FrameEncoder(name, image_size=size).eval()
    assert encoder(torch.zeros(1, 1, 3, size, size)).shape == (1, 1, encoder.grid[0] * encoder.grid[1], encoder.width)


def test_clip_as_lita_reads_it_has_its_published_shape():
    config = timm.models.get_pretrained_cfg("vit_large_patch14_clip_quickgelu_224")
    assert config.input_size == (3, 224, 224) and config.fixed_input_size
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    assert FrameEncoder("vit_large_patch14_clip_quickgelu_224", layer=-2, model_args=small).grid == (16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "no_such_model"}, "name, model_args: timm cannot build 'no_such_model'"),
        ({"name": VIT, "model_args": {"dept": 3}}, "name, model_args: timm cannot build .*dept"),
        ({"name": VIT, "model_args": {**TINY_VIT, "num_heads": 5}}, "name, model_args: timm cannot build"),
        ({"name": VIT, "model_args": TINY_VIT, "layer": 3}, f"layer: '{VIT}' has 3, got 3"),
        ({"name": VIT, "model_args": TINY_VIT, "layer": -4}, f"layer: '{VIT}' has 3, got -4"),
        ({"name": VIT, "model_args": TINY_VIT, "image_size": 60}, "image_size: expected a multiple of 16, .*got 60"),
        ({"name": "resnet10t", "image_size": 65}, "image_size: expected a multiple of 32, .*got 65"),
        ({"name": VIT, "chunk_size": 0}, "chunk_size: expected at least 1, got 0"),
    ],
)
def test_encoders_that_cannot_be_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        FrameEncoder(**options)


@pytest.mark.parametrize("shape", [(5, 3, 64, 64), (1, 5, 3, 64, 32), (1, 5, 3, 32, 32)])
def test_pixels_of_another_shape_are_refused(shape):
    with pytest.raises(ArgumentError, match=r"pixels: expected \[b t c 64 64\], got \["):
        tiny_vit()(torch.zeros(shape))
