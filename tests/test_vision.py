"""Frame encoders read where they say, and the transform does what Pillow does."""

import json
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

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
    assert (found.int() - expected.int()).abs().max() <= 1


def test_crop_keeps_the_middle_and_squash_keeps_the_borders():
    video = torch.zeros(1, 3, 32, 96, dtype=torch.uint8)
    video[..., 32:64] = 200
    assert (FrameTransform(image_size=32).resize(video) == 200).all()
    squashed = FrameTransform(image_size=32, crop="squash").resize(video)
    assert squashed[..., 0].max() == 0 and squashed[..., -1].max() == 0 and squashed[..., 16].min() == 200


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(5, 150),
    width=st.integers(5, 150),
    size=st.sampled_from([8, 15, 32, 64]),
    seed=st.integers(0, 99),
    smooth=st.booleans(),
)
def test_a_batch_is_prepared_as_clip_image_processor_does(height, width, size, seed, smooth):
    """As torchvision's to the bit, as Pillow's within a grey level, or two where frames grow.

    Where values overshoot Pillow's versions differ among themselves, since some begin with the columns.
    """
    height, width = max(height, (width + 19) // 20), max(width, (height + 19) // 20)
    video = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(seed))
    video = (video // 2 + 64 if smooth else video).to(torch.uint8)
    options = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}, "return_tensors": "pt"}
    found = FrameTransform(image_size=size)(video)
    grey_level = 1 / 255 / 0.26130258 + 1e-6  # of the channel with the smallest standard deviation
    levels = {CLIPImageProcessor: 0.01, CLIPImageProcessorPil: 1 if min(height, width) >= size else 2}
    for processor in (CLIPImageProcessor, CLIPImageProcessorPil)[: 1 + smooth]:
        expected = processor(**options)([frame.numpy() for frame in video], **options)["pixel_values"]
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= levels[processor] * grey_level


@pytest.mark.parametrize("size", [(90, 124), (124, 90), (80, 132), (76, 76)])
@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_siglip_224", "vit_small_patch16_dinov3", "convnext_atto", "resnet50", "vit_base_patch16_224"],
)
def test_timms_own_preprocessing(name, size):
    transform, known = FrameTransform.of(name), timm.models.get_pretrained_cfg(name)
    assert transform.image_size == known.input_size[-1]
    transform = replace(transform, image_size=64)
    config = {key: getattr(known, key) for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")}
    timms = timm.data.create_transform((3, 64, 64), **config)
    video = frames(2, *size) // 2 + 64
    height, width = (side * int(64 / known.crop_pct) // min(size) for side in size)
    expected = torch.stack([timms(Image.fromarray(frame.permute(1, 2, 0).numpy())) for frame in video])
    margins_are_even = (height - 64) % 4 != 3 and (width - 64) % 4 != 3  # timm rounds 1.5 up, and 0.5 down
    grey_level = 1 / 255 / min(known.std) + 1e-6
    assert margins_are_even == bool((transform(video) - expected).abs().max() <= grey_level)


@pytest.mark.parametrize("name", ["no_such_model", "vit_base_patch16_224.no_such_tag"])
def test_preprocessing_of_unknown_models_is_refused(name):
    with pytest.raises(ArgumentError, match=f"name: timm does not know what '{name}' sees"):
        FrameTransform.of(name)


def test_preprocessing_not_offered_is_refused(monkeypatch):
    """Some models of newer timm are preprocessed so."""
    config = timm.models.get_pretrained_cfg(VIT)
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name, **_: replace(config, crop_mode="border"))
    with pytest.raises(ArgumentError, match="crop: expected 'center' or 'squash', got 'border'"):
        FrameTransform.of(VIT)


def test_frames_are_resized_one_by_one():
    video, transform = frames(40, 20, 30), FrameTransform(image_size=16)
    assert torch.equal(transform.resize(video), torch.cat([transform.resize(frame[None]) for frame in video]))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(5, 150),
    width=st.integers(5, 150),
    size=st.sampled_from([8, 15, 32, 64]),
    crop=st.sampled_from(["center", "squash"]),
    crop_pct=st.sampled_from([1.0, 0.95, 0.875, 0.9, 0.5]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_frames_scaled_before_come_out_as_those_that_were_not(height, width, size, crop, crop_pct, interpolation):
    height, width = max(height, (width + 19) // 20), max(width, (height + 19) // 20)
    transform = FrameTransform(image_size=size, crop=crop, crop_pct=crop_pct, interpolation=interpolation)
    video = frames(2, height, width)
    scaled, side = transform.scale(video), int(size / crop_pct)
    assert min(scaled.shape[-2:]) == side
    if crop == "center":  # the whole picture, its shape kept: floor(long * side / short)
        assert max(scaled.shape[-2:]) == max(height, width) * side // min(height, width)
    assert torch.equal(transform.resize(scaled), transform.resize(video))
    assert torch.equal(transform.scale(scaled), scaled)


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
    [
        ({"crop": "centre"}, "crop: expected 'center' or 'squash', got 'centre'"),
        ({"interpolation": "random"}, "interpolation: expected 'bicubic' or 'bilinear', got 'random'"),
        ({"image_size": 0}, "image_size, crop_pct: expected .* got 0, 1.0"),
        ({"crop_pct": 0.0}, "image_size, crop_pct: expected .* got 224, 0.0"),
        ({"crop_pct": 1.5}, "image_size, crop_pct: expected .* got 224, 1.5"),
    ],
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


@pytest.mark.parametrize(
    ("name", "model_args", "layer"),
    [
        (VIT, TINY_VIT, -2),
        ("resnet10t", {}, 2),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 1),
        ("vit_base_patch16_siglip_224", {**TINY_VIT, "depth": 2}, -2),
        ("vit_small_patch16_dinov3", {**TINY_VIT, "depth": 2}, -1),
        ("mobilenetv3_small_050", {}, 2),
    ],
)
def test_what_comes_after_the_layer_does_not_exist_and_the_features_stay_timms(name, model_args, layer):
    sized = {} if name in ("resnet10t", "convnext_atto", "mobilenetv3_small_050") else {"img_size": 64}
    whole = timm.create_model(name, **model_args, **sized).eval()
    encoder = FrameEncoder(name, image_size=64, layer=layer, model_args=model_args).eval()
    held = encoder.tower.state_dict()
    assert held.keys() < whole.state_dict().keys()
    encoder.tower.load_state_dict({key: whole.state_dict()[key] for key in held})
    pixels = torch.randn(2, 3, 64, 64)
    (expected,) = whole.forward_intermediates(
        pixels, indices=[layer % len(whole.feature_info)], intermediates_only=True
    )
    if name == VIT:  # the last norm, which a LITA does not read, and the last block
        assert [type(whole.norm), type(encoder.tower.norm)] == [timm.layers.LayerNorm, nn.Identity]
        assert len(encoder.tower.blocks) == 2
        (expected,) = whole.forward_intermediates(pixels, indices=[1], intermediates_only=True, norm=False)
    assert (encoder.width, *encoder.grid) == expected.shape[1:]
    torch.testing.assert_close(encoder.frames(pixels), expected.flatten(2).transpose(1, 2))


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


def test_repeated_frames_are_encoded_once_and_chunks_are_bounded():
    encoder = tiny_vit(chunk_size=3, deduplicate=True)
    a, b, c = torch.randn(3, 3, 64, 64)
    video = torch.stack([a] * 7 + [b, c, a, a, c])
    seen, encode = [], encoder.frames
    encoder.frames = lambda pixels: seen.append(len(pixels)) or encode(pixels)
    pieces = list(encoder.chunks(video))
    assert seen == [3, 2]  # a b c · a c
    assert max(map(len, pieces)) <= 3
    torch.testing.assert_close(torch.cat(pieces), tiny_vit()(video[None])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(torch.stack([video, video.flip(0)]))[1], torch.cat(pieces).flip(0))


def test_a_piece_is_there_before_the_next_is_encoded():
    encoder = tiny_vit(chunk_size=2)
    seen, encode = [], encoder.frames
    encoder.frames = lambda pixels: seen.append(len(pixels)) or encode(pixels)
    pieces = encoder.chunks(torch.randn(5, 3, 64, 64))
    assert [(len(piece), len(seen)) for piece in pieces] == [(2, 1), (2, 2), (1, 3)]


def test_features_come_in_the_dtype_of_the_weights():
    pixels = torch.randn(1, 2, 3, 64, 64)
    found = tiny_vit().bfloat16()(pixels)
    assert found.dtype == torch.bfloat16
    expected = tiny_vit().double()(pixels)
    assert (found - expected).norm() < 0.02 * expected.norm()  # eps is 2 ** -8 a rounding


@pytest.mark.parametrize(
    ("name", "model_args"), [(VIT, TINY_VIT | {"depth": 1}), ("convnext_atto", {"dims": (8, 16, 24, 32)})]
)
def test_frames_compile_without_graph_breaks(name, model_args):
    encoder = FrameEncoder(name, image_size=64, layer=0, model_args=model_args).eval()
    pixels = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(encoder.frames, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(pixels), encoder.frames(pixels))


def test_arguments_make_the_same_encoder_again():
    encoder = tiny_vit(layer=-2, chunk_size=3, deduplicate=True)
    again = FrameEncoder(**json.loads(json.dumps(encoder.arguments)))
    again.load_state_dict(encoder.state_dict())
    pixels = torch.randn(1, 4, 3, 64, 64)
    assert torch.equal(again.eval()(pixels), encoder(pixels))
    assert (again.arguments, again.chunk_size, again.deduplicate) == (encoder.arguments, 3, True)


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
        ({"name": "no_such_model"}, "name, layer, model_args: timm cannot build 'no_such_model'"),
        ({"name": VIT, "model_args": {"dept": 3}}, "name, layer, model_args: timm cannot build .*dept"),
        ({"name": VIT, "model_args": {**TINY_VIT, "num_heads": 5}}, "name, layer, model_args: timm cannot build"),
        ({"name": VIT, "model_args": TINY_VIT, "layer": 3}, "layer, .* layer 3: .*out of range"),
        ({"name": VIT, "model_args": TINY_VIT, "layer": -4}, "layer, .* layer -4: .*out of range"),
        ({"name": VIT, "model_args": TINY_VIT, "image_size": 60}, "image_size: expected a multiple of 16, .*got 60"),
        ({"name": "resnet10t", "image_size": 65}, "image_size: expected a multiple of 32, .*got 65"),
        ({"name": VIT, "chunk_size": 0}, "chunk_size: expected an integer of at least 1, got 0"),
    ],
)
def test_encoders_that_cannot_be_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        FrameEncoder(**options)


@pytest.mark.parametrize("shape", [(5, 3, 64, 64), (1, 5, 3, 64, 32), (1, 5, 3, 32, 32)])
def test_pixels_of_another_shape_are_refused(shape):
    with pytest.raises(ArgumentError, match=r"pixels: expected \[b t c 64 64\], got \["):
        tiny_vit()(torch.zeros(shape))
