"""Foreign weights: what transformers, open_clip and timm saved gives the features of the model it came from."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from timetok.errors import ModelFolderError
from timetok.vision import FrameEncoder

TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
GRIDS = [(56, 14, 32, 72), (64, 16, 48, 96)]  # side, patch, width, MLP width


def tiny_clip(side=56, patch=14, width=32, hidden=72, act="quick_gelu"):
    """A whole CLIP whose weights are far from their cautious initial size."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": hidden, "image_size": side, "patch_size": patch}
    sizes |= {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_act": act}
    model = CLIPModel(CLIPConfig(vision_config=sizes, text_config=TEXT, projection_dim=4)).eval()
    for weight in model.vision_model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def hidden_states(clip, pixels):
    with torch.no_grad():
        return clip.vision_model(pixels, output_hidden_states=True).hidden_states


def save(clip, folder, layout):
    """The same image tower as transformers saves it whole, alone, in shards, or as it once did, by pickle."""
    model = clip
    if "alone" in layout:
        model = CLIPVisionModel(CLIPVisionConfig(**clip.config.vision_config.to_dict()))
        own = model.state_dict()
        values = {key.removeprefix("vision_model."): value for key, value in clip.vision_model.state_dict().items()}
        model.load_state_dict({key: values[key.removeprefix("vision_model.")] for key in own})
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if "shards" in layout else {}))
    if "pickle" in layout:
        file = folder / "model.safetensors"
        torch.save(load_file(file), folder / "pytorch_model.bin")
        file.unlink()
    return folder


def as_open_clip(clip):
    """The weights under the names open_clip gives them, those of the text tower included."""
    vision = {key.removeprefix("vision_model."): value for key, value in clip.vision_model.state_dict().items()}
    found = {
        "visual.class_embedding": vision["embeddings.class_embedding"],
        "visual.positional_embedding": vision["embeddings.position_embedding.weight"],
        "visual.conv1.weight": vision["embeddings.patch_embedding.weight"],
        "visual.proj": clip.visual_projection.weight.T.contiguous(),
        "positional_embedding": torch.zeros(77, 8),
        "transformer.resblocks.0.ln_1.weight": torch.ones(8),
        "logit_scale": torch.tensor(1.0),
    }
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = vision[f"pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = vision[f"post_layernorm.{kind}"]
        for block in range(3):
            theirs, ours = f"visual.transformer.resblocks.{block}.", f"encoder.layers.{block}."
            attention = [vision[f"{ours}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{theirs}attn.in_proj_{kind}"] = torch.cat(attention)
            found[f"{theirs}attn.out_proj.{kind}"] = vision[f"{ours}self_attn.out_proj.{kind}"]
            found[f"{theirs}ln_1.{kind}"] = vision[f"{ours}layer_norm1.{kind}"]
            found[f"{theirs}ln_2.{kind}"] = vision[f"{ours}layer_norm2.{kind}"]
            found[f"{theirs}mlp.c_fc.{kind}"] = vision[f"{ours}mlp.fc1.{kind}"]
            found[f"{theirs}mlp.c_proj.{kind}"] = vision[f"{ours}mlp.fc2.{kind}"]
    return {key: value.clone() for key, value in found.items()}


def tiny_encoder(**options):
    args = {"embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 2.25}
    options = {"image_size": 56, "layer": -2, "model_args": args} | options
    return FrameEncoder("vit_large_patch14_clip_quickgelu_224", **options).eval()


@pytest.mark.parametrize("layout", ["whole", "alone", "whole in shards", "alone in shards", "alone, by pickle"])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("grid", GRIDS)
def test_clip_of_transformers_gives_its_hidden_states(tmp_path, grid, act, layout):
    clip = tiny_clip(*grid, act=act)
    encoder = FrameEncoder.from_clip(save(clip, tmp_path, layout)).eval()
    pixels = torch.randn(2, 3, grid[0], grid[0])
    expected = hidden_states(clip, pixels)[-2][:, 1:]
    torch.testing.assert_close(encoder.frames(pixels), expected, atol=1e-5, rtol=1e-5)
    assert (encoder.grid, encoder.width, len(encoder.tower.blocks)) == ((4, 4), grid[2], 2)
    again = FrameEncoder(**json.loads(json.dumps(encoder.arguments)))
    again.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize("layer", [-1, -3, 0])
def test_any_layer_of_clip_is_its_hidden_state(tmp_path, layer):
    clip, pixels = tiny_clip(), torch.randn(2, 3, 56, 56)
    encoder = FrameEncoder.from_clip(save(clip, tmp_path, "whole"), layer=layer).eval()
    expected = hidden_states(clip, pixels)[layer if layer < 0 else layer + 1][:, 1:]  # the first is no layer's
    torch.testing.assert_close(encoder.frames(pixels), expected, atol=1e-5, rtol=1e-5)


def test_files_of_later_layers_need_not_be_there(tmp_path):
    save(tiny_clip(), tmp_path, "alone in shards")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in index.items() if "layers.2." not in name and "post_layernorm" not in name}
    dropped = set(index.values()) - needed
    assert dropped
    for file in dropped:
        (tmp_path / file).unlink()
    FrameEncoder.from_clip(tmp_path)
    (tmp_path / sorted(needed)[0]).unlink()
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        FrameEncoder.from_clip(tmp_path)


def test_what_is_not_held_is_not_copied(tmp_path, monkeypatch):
    save(tiny_clip(), tmp_path, "whole")
    joined, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts, *rest: joined.append(len(parts)) or cat(parts, *rest))
    FrameEncoder.from_clip(tmp_path)
    assert joined == [3, 3] * 2  # q, k and v of two blocks, weights and biases


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, r"expected a CLIP with \(quick_\)gelu and a layer_norm_eps of 1e-05.*relu"),
        ({"layer_norm_eps": 1e-6}, "expected a CLIP with .*1e-06"),
        ({"image_size": [56, 42]}, "expected a CLIP"),
        ({"hidden_size": "wide"}, "expected a CLIP"),
        ({"num_hidden_layers": 9}, "weights are missing, surplus or of another shape, such as blocks"),
        ({"intermediate_size": 64}, "6 weights are missing, surplus or of another shape, such as blocks.0.mlp.fc1"),
        ({"patch_size": 28}, "2 weights are missing, surplus or of another shape, such as pos_embed"),
    ],
)
def test_other_clips_are_refused(tmp_path, change, message):
    save(tiny_clip(), tmp_path, "alone")
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=message):
        FrameEncoder.from_clip(tmp_path)


def test_folders_without_a_clip_are_refused(tmp_path):
    with pytest.raises(ModelFolderError, match="folder: expected a CLIP"):
        FrameEncoder.from_clip(tmp_path / "nowhere")
    save(tiny_clip(), tmp_path, "alone")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelFolderError, match=r"source: .* cannot be loaded"):
        FrameEncoder.from_clip(tmp_path)


@pytest.mark.parametrize("kind", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "epoch_1.pt"])
def test_open_clip_gives_the_hidden_states_of_transformers(tmp_path, kind):
    clip, encoder, file = tiny_clip(), tiny_encoder(), tmp_path / kind
    weights = as_open_clip(clip)
    if file.suffix == ".safetensors":
        save_file(weights, file)
    else:  # what training leaves behind says more
        torch.save({"epoch": 1, "state_dict": weights} if file.suffix == ".pt" else weights, file)
    encoder.load_weights(file if file.suffix == ".pt" else tmp_path)
    pixels = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(encoder.frames(pixels), hidden_states(clip, pixels)[-2][:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "size"),
    [
        ("vit_base_patch16_siglip_224", {"embed_dim": 32, "depth": 3, "num_heads": 2}, True),
        ("vit_small_patch16_dinov3", {"embed_dim": 32, "depth": 3, "num_heads": 2}, True),
        ("convnext_atto", {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}, False),
        ("mobilenetv3_small_050", {}, False),
    ],
)
def test_what_timm_saved_is_loaded_into_fewer_layers(tmp_path, name, args, size):
    whole = timm.create_model(name, **args, **({"img_size": 64} if size else {})).eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    encoder = FrameEncoder(name, image_size=64, layer=-2, model_args=args).eval()
    encoder.load_weights(tmp_path)
    weights = whole.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in encoder.tower.state_dict().items())


def unchanged(encoder, before):
    return all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda found: found.pop("visual.ln_pre.bias"), "norm_pre.bias"),
        (lambda found: found.pop("visual.transformer.resblocks.1.mlp.c_fc.weight"), "blocks.1.mlp.fc1.weight"),
        (lambda found: found.update({"visual.ln_pre.bias": torch.zeros(31)}), "norm_pre.bias"),
        (lambda found: found.update({"visual.transformer.resblocks.0.ls1.gamma": torch.ones(32)}), "ls1.gamma"),
        (lambda found: found.update({"visual.reg_token": torch.ones(1, 4, 32)}), "reg_token"),
        (lambda found: found.clear(), "cls_token"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, change, named):
    weights, encoder = as_open_clip(tiny_clip()), tiny_encoder()
    change(weights)
    save_file(weights, tmp_path / "weights.safetensors")
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ModelFolderError, match=f"1?[0-9]+ weights are missing, surplus or of another shape.*{named}"):
        encoder.load_weights(tmp_path / "weights.safetensors")
    assert unchanged(encoder, before)


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("content", [Hostile(), [1, 2], {"state_dict": 3}, {"visual.class_embedding": "text"}])
def test_pickles_of_anything_else_are_refused(tmp_path, content, capsys):
    torch.save(content, tmp_path / "pytorch_model.bin")
    encoder = tiny_encoder()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ModelFolderError, match=r"source: .* cannot be loaded"):
        encoder.load_weights(tmp_path)
    assert unchanged(encoder, before) and "run" not in capsys.readouterr().out


def test_position_embeddings_of_another_grid_are_resampled(tmp_path):
    save_file(as_open_clip(tiny_clip()), tmp_path / "weights.safetensors")
    encoder = tiny_encoder(image_size=84)
    encoder.load_weights(tmp_path / "weights.safetensors")
    assert encoder.frames(torch.zeros(1, 3, 84, 84)).shape == (1, 36, 32)


def test_published_sizes_keep_timms_name(monkeypatch, tmp_path):
    published = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    CLIPVisionConfig(**published, image_size=336, patch_size=14).save_pretrained(tmp_path)
    monkeypatch.setattr(FrameEncoder, "load_weights", lambda self, source: None)
    with torch.device("meta"):
        encoder = FrameEncoder.from_clip(tmp_path)
        by_name = timm.create_model("vit_large_patch14_clip_quickgelu_336", num_classes=0)
    assert encoder.arguments["name"] == "vit_large_patch14_clip_quickgelu_336"
    assert (encoder.grid, encoder.width, len(encoder.tower.blocks)) == ((24, 24), 1024, 23)
    shapes = {key: value.shape for key, value in by_name.state_dict().items()}
    assert all(shapes[key] == value.shape for key, value in encoder.tower.state_dict().items())
