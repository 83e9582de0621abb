"""The adapter as a whole: checks when it is built, and files that bring it back."""

import json
import os
import pickle
import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import nn

import tiny_lm
from timetok import SlowFastPooler, TimeTokenizer, VideoAdapter, embeddings
from timetok.adapter import TokenIds
from timetok.errors import ArgumentError, ModelFolderError
from timetok.vision import FrameEncoder

PRECIOUS = {"adapter_config.json", "adapter.safetensors", "time_tokens.json", "tokenizer.json"}


def trained(**options):
    """An adapter in which everything that is saved differs from what a new one starts with."""
    adapter = tiny_lm.adapter(**options)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in adapter.projector.parameters():
            parameter.normal_()
        for module in (adapter.lm.get_input_embeddings(), adapter.lm.get_output_embeddings()):
            module.weight[list(adapter.time_token_ids)] = torch.randn(tiny_lm.T, tiny_lm.WIDTH)
    return adapter


def fresh_lm(kind="llama", *, tied=True):
    """The LM as it was before the adapter was trained: its time rows are new."""
    lm = tiny_lm.language_model(kind, tied=tied)
    torch.manual_seed(1)
    embeddings.resize(lm, tiny_lm.time_tokenizer().time_token_ids)
    return lm


def logits(adapter):
    batch = adapter.prepare(tiny_lm.PROMPT + "<t3><t7>", videos=[tiny_lm.video()])
    return adapter(**batch).logits


@pytest.mark.parametrize(("kind", "tied"), tiny_lm.MODELS)
def test_an_adapter_alone_comes_back_on_the_untouched_lm(kind, tied, tmp_path):
    adapter = trained(kind=kind, tied=tied)
    adapter.save_pretrained(tmp_path)
    lm = fresh_lm(kind, tied=tied)
    again = VideoAdapter.from_pretrained(tmp_path, lm=lm).eval()
    assert torch.equal(logits(again), logits(adapter))
    assert (lm.get_input_embeddings().weight is lm.get_output_embeddings().weight) == tied
    assert not (tmp_path / "lm").exists()


@pytest.mark.parametrize(("kind", "tied"), tiny_lm.MODELS)
def test_a_whole_adapter_comes_back_from_its_folder(kind, tied, tmp_path):
    adapter = trained(kind=kind, tied=tied)
    adapter.save_pretrained(tmp_path, adapter_only=False)
    again = VideoAdapter.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(adapter))
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    assert torch.equal(
        again.generate(**batch, max_new_tokens=5, do_sample=False),
        adapter.generate(**batch, max_new_tokens=5, do_sample=False),
    )
    assert (again.lm.get_input_embeddings().weight is again.lm.get_output_embeddings().weight) == tied
    assert again.processor.tt.time_token_ids == adapter.processor.tt.time_token_ids
    assert again.video_token_id == adapter.video_token_id


@pytest.mark.parametrize(
    "options",
    [
        {"projector": "mlp2x_gelu", "order": "project-first"},
        {"time_markers": True, "pooler": SlowFastPooler(num_slow_frames=0)},
        {"vision_dim": 9},
    ],
)
def test_settings_come_back(options, tmp_path):
    adapter = trained(**options)
    adapter.save_pretrained(tmp_path)
    again = VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm())
    features = tiny_lm.video(width=options.get("vision_dim", tiny_lm.VISION_WIDTH))[None]
    assert torch.equal(again.visual_tokens(features), adapter.visual_tokens(features))
    assert (again.order, again.time_markers, again.pooler.plan) == (
        adapter.order,
        adapter.time_markers,
        adapter.pooler.plan,
    )


def test_a_projector_of_its_own_class_is_passed_again(tmp_path):
    class Own(nn.Sequential):
        pass

    def own():
        return Own(nn.Linear(tiny_lm.VISION_WIDTH, tiny_lm.WIDTH), nn.Tanh())

    adapter = trained(projector=own())
    adapter.save_pretrained(tmp_path)
    assert torch.equal(logits(VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm(), projector=own())), logits(adapter))
    with pytest.raises(ArgumentError, match="projector: expected 'linear', 'mlp2x_gelu' or a module, got None"):
        VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm())


def test_a_projector_without_weights_comes_back(tmp_path):
    adapter = trained(vision_dim=tiny_lm.WIDTH, projector=nn.Sequential())  # empty, hence false
    adapter.save_pretrained(tmp_path)
    again = VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm(), projector=nn.Sequential())
    features = tiny_lm.video(width=tiny_lm.WIDTH)[None]
    assert torch.equal(again.visual_tokens(features), adapter.visual_tokens(features))


def test_a_half_precision_adapter_comes_back_in_half_precision(tmp_path):
    adapter = trained().to(torch.bfloat16)
    adapter.save_pretrained(tmp_path, adapter_only=False)
    again = VideoAdapter.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    features = tiny_lm.video()[None].bfloat16()
    assert torch.equal(again.visual_tokens(features), adapter.visual_tokens(features))


@pytest.mark.parametrize("tied", [True, False])
def test_files_hold_the_projector_and_the_time_rows_and_nothing_else(tied, tmp_path):
    adapter = trained(tied=tied)
    adapter.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    tables = [adapter.lm.get_input_embeddings(), adapter.lm.get_output_embeddings()]
    names = ["time_rows.input"] + ["time_rows.output"] * (not tied)
    assert set(tensors) == {"projector.weight", "projector.bias", *names}
    for name, table in zip(names, tables, strict=False):
        assert torch.equal(tensors[name], table.weight[list(adapter.time_token_ids)])
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert (tmp_path / "adapter.safetensors").stat().st_size < 4 * numbers + 1024
    assert {file.name for file in tmp_path.iterdir()} >= PRECIOUS
    assert all(file.is_file() and file.stat().st_mode & 0o444 == 0o444 for file in tmp_path.iterdir())


def test_a_seconds_adapter_has_no_time_rows(tmp_path):
    tt = TimeTokenizer.wrap(tiny_lm.tokenizer(), codec="seconds")
    adapter = VideoAdapter(tiny_lm.language_model(), tt, vision_dim=tiny_lm.VISION_WIDTH)
    adapter.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "adapter.safetensors")) == {"projector.weight", "projector.bias"}
    again = VideoAdapter.from_pretrained(tmp_path, lm=tiny_lm.language_model())
    assert torch.equal(again.projector.weight, adapter.projector.weight)


@pytest.mark.parametrize("step", ["tokenizer", "lm", "weights", "settings"])
@pytest.mark.parametrize("again", [False, True])
def test_an_interrupted_save_leaves_what_was_there(step, again, tmp_path, monkeypatch):
    adapter = trained()
    if again:
        tiny_lm.adapter(projector="mlp2x_gelu").save_pretrained(tmp_path, adapter_only=False)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def stop(*_, **__):
        raise KeyboardInterrupt

    where = {
        "tokenizer": (TimeTokenizer, "save_pretrained"), "lm": (type(adapter.lm), "save_pretrained"),
        "weights": ("timetok.adapter.save",), "settings": ("timetok.adapter.write_json",),
    }[step]  # fmt: skip
    monkeypatch.setattr(*where, stop)
    with pytest.raises(KeyboardInterrupt):
        adapter.save_pretrained(tmp_path, adapter_only=False)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_settings_take_their_name_last(tmp_path, monkeypatch):
    names, replace = [], os.replace

    def record(source, target):
        names.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    trained().save_pretrained(tmp_path, adapter_only=False)
    assert names[-1] == "adapter_config.json" and "model.safetensors" in names


@pytest.mark.parametrize("name", ["lita-1.5", "llava-video"])
def test_learned_separators_come_back(name, tmp_path):
    pooler = SlowFastPooler.preset(name, dim=tiny_lm.WIDTH)
    adapter = trained(pooler=pooler, order="project-first")
    features = torch.randn(5, 4, 4, tiny_lm.VISION_WIDTH)
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[features])
    adapter(**batch, labels=batch["input_ids"]).loss.backward()
    assert all(vector.grad.any() for vector in pooler.separators.values())
    adapter.save_pretrained(tmp_path)
    again = VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm()).eval()
    assert torch.equal(again(**batch).logits, adapter(**batch).logits)


def test_saving_again_replaces(tmp_path):
    tiny_lm.adapter(projector="mlp2x_gelu").save_pretrained(tmp_path, adapter_only=False)
    adapter = trained()
    adapter.save_pretrained(tmp_path, adapter_only=False)
    assert torch.equal(logits(VideoAdapter.from_pretrained(tmp_path).eval()), logits(adapter))


def test_an_adapter_beside_an_older_lm_is_refused(tmp_path):
    adapter = trained()
    adapter.save_pretrained(tmp_path, adapter_only=False)
    with pytest.raises(ArgumentError, match=r"folder: .* holds an earlier language model in lm/"):
        adapter.save_pretrained(tmp_path)


def test_an_adapter_of_pixels_comes_back_with_its_encoder(tmp_path):
    vision = FrameEncoder("resnet10t", image_size=64)
    adapter = trained(vision_dim=vision.width, vision=vision).eval()
    adapter.save_pretrained(tmp_path)
    assert not any(name.startswith("vision") for name in load_file(tmp_path / "adapter.safetensors"))
    again = VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm(), vision=vision).eval()
    batch = again.prepare(tiny_lm.PROMPT, pixels=[torch.randn(3, 3, 64, 64)])
    assert torch.equal(again(**batch).logits, adapter(**batch).logits)


@pytest.mark.parametrize("whole", [False, True])
def test_the_card_tells_how_to_load_and_is_never_overwritten(whole, tmp_path):
    adapter, base = trained(), str(tmp_path / "base")
    tiny_lm.language_model().save_pretrained(base)
    adapter.lm.config.name_or_path = base
    adapter.save_pretrained(tmp_path, adapter_only=not whole)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("timetok", base)
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert ('"FOLDER/lm"' in code) == whole
    names = {"features": tiny_lm.video()}
    exec(code.replace("FOLDER", str(tmp_path)), names)
    batch = adapter.prepare(["USER: <video>\nWhen does it happen? ASSISTANT:"], videos=[tiny_lm.video()])
    assert torch.equal(names["ids"], adapter.generate(**batch, max_new_tokens=24))
    (tmp_path / "README.md").write_text("mine")
    adapter.save_pretrained(tmp_path, adapter_only=not whole)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("kind", tiny_lm.KINDS)
def test_an_embedding_that_is_too_small_names_the_call(kind):
    tt, lm = tiny_lm.time_tokenizer(), tiny_lm.language_model(kind)
    last = tt.time_token_ids[-1]
    message = (
        rf"lm: its embedding has 290 rows, but time tokens reach id {last}; "
        r"call timetok.embeddings.resize\(lm, tt.time_token_ids\) first"
    )
    with pytest.raises(ArgumentError, match=message):
        VideoAdapter(lm, tt, vision_dim=6)
    assert lm.get_input_embeddings().num_embeddings == 290  # never resized behind the caller's back
    embeddings.resize(lm, tt.time_token_ids)
    VideoAdapter(lm, tt, vision_dim=6)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter.safetensors"])
def test_a_folder_that_lacks_a_file_says_which(name, tmp_path):
    trained().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelFolderError, match=f"holds no readable adapter.*{name}"):
        VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm())


def test_a_folder_without_an_lm_needs_one(tmp_path):
    trained().save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="lacks lm/, a saved language model; pass lm="):
        VideoAdapter.from_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="holds no readable adapter"):
        VideoAdapter.from_pretrained(tmp_path / "nowhere", lm=fresh_lm())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"{}"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b'{"projector": "linear", "pooler": {"slow": 2}}'),
        ("adapter.safetensors", b"half"),
    ],
)
def test_a_damaged_file_is_one_error(name, content, tmp_path):
    trained().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match="holds no readable adapter"):
        VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm())


def test_an_lm_that_does_not_fit_is_refused(tmp_path):
    trained(tied=True).save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"lm: its head is not tied, and the folder has no time_rows\.output"):
        VideoAdapter.from_pretrained(tmp_path, lm=fresh_lm(tied=False))
    with pytest.raises(ArgumentError, match=r"timetok.embeddings.resize"):
        VideoAdapter.from_pretrained(tmp_path, lm=tiny_lm.language_model())


def test_settings_are_plain_json(tmp_path):
    trained(order="project-first").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "vision_dim": tiny_lm.VISION_WIDTH,
        "projector": "linear",
        "order": "project-first",
        "time_markers": False,
        "temporal_rope": None,
        "attention": "causal",
        "pooler": {"fast": True, "num_slow_frames": 2, "slow_pool": 2},
    }


def test_prepare_is_the_processor():
    adapter = tiny_lm.adapter()
    text, options = "USER: <video> at <4.0> ASSISTANT:", {"videos": [tiny_lm.video()], "durations": [9.0]}
    prepared, processed = adapter.prepare(text, **options), adapter.processor(text, **options)
    assert all(torch.equal(prepared[name], processed[name]) for name in processed)
    typed = adapter.prepare("<t3>", trusted=False)
    assert adapter.processor.tt.time_token_ids[3] not in typed["input_ids"]


def test_the_processor_travels_without_the_adapter():
    adapter = tiny_lm.adapter()
    processor = pickle.loads(pickle.dumps(adapter.processor))
    batch = processor(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    assert torch.equal(
        adapter(**batch).logits, adapter(**adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])).logits
    )


def test_spans_come_out_of_generated_ids():
    adapter = tiny_lm.adapter(tied=False)
    start, end = adapter.time_token_ids[2], adapter.time_token_ids[6]
    head = adapter.lm.get_output_embeddings()
    step = iter([start, end, 1])

    def say(module, args, logits):
        forced = torch.full_like(logits, -1e4)
        forced[..., next(step)] = 0
        return forced

    handle = head.register_forward_hook(say)
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    ids = adapter.generate(**batch, max_new_tokens=8, do_sample=False)
    handle.remove()
    (spans,) = adapter.processor.tt.spans(ids, 18.0, prompt_length=batch["input_ids"].shape[1])
    assert [(span.start, span.end) for span in spans] == [(4.0, 12.0)]


def test_an_adapter_of_ids_is_the_one_of_their_tokenizer_and_is_not_saved(tmp_path):
    whole = tiny_lm.adapter()
    ids = TokenIds(whole.video_token_id, whole.time_token_ids)
    alone = VideoAdapter(whole.lm, ids, vision_dim=tiny_lm.VISION_WIDTH, pooler=whole.pooler).eval()
    alone.projector.load_state_dict(whole.projector.state_dict())
    batch = whole.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    assert torch.equal(alone(**batch).logits, whole(**batch).logits)
    with pytest.raises(ArgumentError, match="tt: an adapter of TokenIds has no tokenizer to save"):
        alone.save_pretrained(tmp_path)
