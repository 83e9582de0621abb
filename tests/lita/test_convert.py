"""Published checkpoints become LITA folders that see, say and tokenise what their original code did."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

import published
from published import NUM_FRAMES, SIDE, SYSTEM, T, num_pieces, slow_ids
from timetok.cli import main
from timetok.errors import ArgumentError, ModelFolderError
from timetok.lita import LitaProcessor
from timetok.lita.answer import Localizer
from timetok.lita.convert import convert
from timetok.vision import FrameEncoder, FrameTransform

ARCHS = ("temporal", "spatial", "temporal_spatial", "spatial_pool", "temporal_spatial_pool")
QUESTION = "when does the red circle leave?"
TIMES = [num_pieces() + k for k in range(T)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CLIP and a LITA, neither of which a test changes."""
    home = tmp_path_factory.mktemp("published")
    published.lita(home / "lita", published.make(home))
    return home


@pytest.fixture(scope="module")
def converted(home: Path) -> Path:
    convert(home / "lita", vision=home / "clip", out=home / "converted")
    return home / "converted"


def pixels() -> torch.Tensor:
    return torch.randn(NUM_FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def assert_same(original: published.Original, folder: Path, video_arch: str = ARCHS[-1], num: int = 6) -> None:
    """Visual tokens, logits and greedy ids of a converted folder are those of the original computation."""
    localizer = Localizer.load(folder)
    model, processor = localizer.model, localizer.processor
    visual, features = original.visual_tokens(pixels(), video_arch), model.model.features(pixels()[None])
    with torch.no_grad():
        seen = model.model.visual_tokens(features)[0]
    assert (seen - visual).abs().max() <= 1e-4 * visual.abs().max()
    logits, ids = original.answer(QUESTION, visual, num)
    prompt = f"{SYSTEM} USER: <video>\n{QUESTION} ASSISTANT:"
    batch = processor.prompts([prompt], counts=[processor.num_video_tokens], trusted=False)
    inputs: Any = {**batch, "video_features": features}
    with torch.no_grad():
        found = model(**inputs).logits[0]
    assert found.shape == logits.shape
    assert (found - logits).abs().max() <= 1e-4 * logits.abs().max()
    new = model.generate(**inputs, max_new_tokens=num, do_sample=False, eos_token_id=-1)
    assert new[0, len(logits) :].tolist() == ids


def copy(home: Path, folder: Path) -> Path:
    return Path(shutil.copytree(home / "lita", folder))


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no dict
    return found


@pytest.mark.parametrize("video_arch", ARCHS)
def test_lita_sees_and_answers_as_the_original_did(video_arch: str, tmp_path: Path) -> None:
    original = published.make(tmp_path)
    source = published.lita(tmp_path / "source", original, video_arch=video_arch)
    convert(source, vision=tmp_path / "clip", out=tmp_path / "out")
    assert_same(original, tmp_path / "out", video_arch)


@pytest.mark.parametrize(("shards", "pickled"), [(1, True), (3, True), (1, False), (3, False)])
def test_every_way_in_which_weights_are_stored(shards: int, pickled: bool, tmp_path: Path) -> None:
    original = published.make(tmp_path, projector="mlp2x_gelu", seed=shards)
    options: dict[str, Any] = {"shards": shards, "pickled": pickled, "mm_projector_type": "mlp2x_gelu"}
    convert(published.lita(tmp_path / "source", original, **options), vision=tmp_path / "clip", out=tmp_path / "out")
    assert_same(original, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == shards + 1


def test_shards_without_an_index_and_a_tower_among_them(tmp_path: Path) -> None:
    original = published.make(tmp_path)
    source = published.lita(tmp_path / "source", original)
    (source / "pytorch_model.bin.index.json").unlink()
    extra = {"model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None]}
    extra["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    torch.save(extra, source / "pytorch_model-00003-of-00003.bin")
    convert(source, vision=tmp_path / "clip", out=tmp_path / "out")
    assert_same(original, tmp_path / "out")


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    original = published.make(tmp_path, tie_word_embeddings=True)
    source = published.lita(tmp_path / "source", original, tie_word_embeddings=True)
    convert(source, vision=tmp_path / "clip", out=tmp_path / "out")
    assert_same(original, tmp_path / "out")
    assert "model.lm.lm_head.weight" not in tensors(tmp_path / "out")


@pytest.mark.parametrize("layout", ["llava", "llava_llama", "vila"])
def test_llava_and_vila_project_first_and_write_seconds(layout: str, tmp_path: Path) -> None:
    original = published.make(tmp_path, projector="mlp2x_gelu", rows=num_pieces())
    if layout == "vila":
        source = published.vila(tmp_path / "source", original, projector="mlp2x_gelu")
    else:
        gone: dict[str, Any] = dict.fromkeys(("video_arch", "input_type", "num_time_tokens", "time_token_ids"), ...)
        gone |= {"model_type": layout, "mm_projector_type": "mlp2x_gelu"}
        source = published.lita(tmp_path / "source", original, **gone)
    convert(source, vision=tmp_path / "clip", out=tmp_path / "out")
    assert_same(original, tmp_path / "out")
    model = Localizer.load(tmp_path / "out")
    assert (model.model.config.order, model.processor.codec, model.processor.num_frames) == (
        "project-first", "seconds", NUM_FRAMES
    )  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
def test_a_delta_brings_the_projector_and_the_rows_of_time(whole: bool, tmp_path: Path) -> None:
    original = published.make(tmp_path)
    held = published.weights(original)
    tables = {name: held.pop(name) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    projector = {name: held.pop(name) for name in list(held) if "mm_projector" in name}
    base = tmp_path / "base"
    base.mkdir()
    text = {**published.TEXT, "model_type": "llama", "vocab_size": num_pieces()}
    (base / "config.json").write_text(json.dumps(text))
    published.write_weights(base, held | {name: table[: num_pieces()] for name, table in tables.items()}, pickled=False)
    published.write_tokenizer(base, 0)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(published.settings(original)))
    first = 0 if whole else num_pieces()
    rows = {name: table[first:].clone() for name, table in tables.items()}
    for table in rows.values():
        table[: num_pieces() - first] = 7.0  # not the rows of time tokens: the base's stay
    torch.save(projector | rows, source / "mm_projector.bin")
    convert(source, vision=tmp_path / "clip", out=tmp_path / "out", base=base)
    assert_same(original, tmp_path / "out")
    with pytest.raises(ModelFolderError, match="name the base"):
        convert(source, vision=tmp_path / "clip", out=tmp_path / "other")
    torch.save(projector | {name: table[:-1] for name, table in rows.items()}, source / "mm_projector.bin")
    with pytest.raises(ModelFolderError, match=rf"embed_tokens.weight: expected \[{num_pieces() + T}, \d+\], got"):
        convert(source, vision=tmp_path / "clip", out=tmp_path / "other", base=base)


@pytest.mark.parametrize(("ratio", "crop"), [("pad", "center"), ("resize", "squash")])
def test_frames_are_cut_or_squashed_as_the_settings_say(ratio: str, crop: Any, home: Path, tmp_path: Path) -> None:
    source = copy(home, tmp_path / "source")
    change(source / "config.json", image_aspect_ratio=ratio)
    convert(source, vision=home / "clip", out=tmp_path / "out")
    expected = json.loads(json.dumps(asdict(FrameTransform(SIDE, crop=crop))))
    assert LitaProcessor.from_pretrained(tmp_path / "out").transform == expected


def test_a_timm_tower_keeps_its_own_preprocessing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vit_tiny_patch16_224"
    build, seen = FrameEncoder.__init__, []

    def without_download(encoder: FrameEncoder, *args: Any, pretrained: bool = False, **options: Any) -> None:
        seen.append((args, pretrained))
        build(encoder, *args, **options)

    monkeypatch.setattr(FrameEncoder, "__init__", without_download)
    original = published.make(tmp_path, projector="linear")
    original.projector = torch.nn.Linear(192, published.WIDTH)
    convert(published.lita(tmp_path / "source", original), vision=name, out=tmp_path / "out")
    assert seen[0] == ((name,), True)
    localizer = Localizer.load(tmp_path / "out")
    assert localizer.processor.transform == json.loads(json.dumps(asdict(FrameTransform.of(name))))
    assert localizer.model.config.vision["layer"] == -2 and localizer.processor.grid == [14, 14]


TEXTS = [
    "<t1> <t2> man", "the man", " the  man ", "<t0>", "<t3><t4>", "at <t3> , <t19>the red circle", "a\n<t5>\n\nb",
    "<t1>  <t2> the man <t20> leaves 12.3", "日本 <t7> é", "",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_spaces_beside_time_tokens_are_those_of_the_slow_tokenizer(text: str, converted: Path) -> None:
    tokenizer = LitaProcessor.from_pretrained(converted).tokenizer
    assert tokenizer(text)["input_ids"] == [1, *slow_ids(text)]


def test_random_texts_are_tokenised_as_by_sentencepiece(converted: Path) -> None:
    tokenizer = LitaProcessor.from_pretrained(converted).tokenizer
    parts = ["<t1>", "<t12>", " ", "  ", "\n", "man", " the", "red", "USER:", "12", ".", "é", "<", ">", "t1", "\t"]
    random = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(random.choice(parts, size=random.integers(1, 12)))
        assert tokenizer(text)["input_ids"] == [1, *slow_ids(text)], repr(text)


def test_ids_stay_the_checkpoints_and_the_placeholder_comes_after(converted: Path) -> None:
    processor = LitaProcessor.from_pretrained(converted)
    assert list(processor.tt.time_token_ids) == TIMES
    assert processor.video_token_id == TIMES[-1] + 1
    assert processor.prompt("When?") == f"{SYSTEM} USER: <video>\nWhen? ASSISTANT:"
    assert processor.tokenizer.pad_token_id == 0 and processor.tokenizer.eos_token_id == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_their_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    original = published.make(tmp_path)
    original.lm.to(dtype)
    original.projector.to(dtype)
    convert(published.lita(tmp_path / "source", original), vision=tmp_path / "clip", out=tmp_path / "out")
    held = tensors(tmp_path / "out")
    for name, tensor in published.weights(original, "projector").items():
        ours = held[f"model.{name}" if name.startswith("projector") else f"model.lm.{name}"]
        assert ours.dtype == dtype and torch.equal(ours, tensor)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_the_command_converts_and_refuses_in_one_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["convert", "lita", str(home / "lita"), "--vision", str(home / "clip"), "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out == f"model:    {out}\n"
    assert main([*command[:-1], str(tmp_path / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(tmp_path / "other")}
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "expected a new or empty folder" in told


class Hostile:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def _truncate(folder: Path) -> None:
    file = folder / "pytorch_model-00002-of-00002.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _compress(folder: Path) -> None:
    file = folder / "pytorch_model-00002-of-00002.bin"
    with ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def _hostile(folder: Path) -> None:
    torch.save({"model.norm.weight": Hostile(folder.parent / "owned")}, folder / "pytorch_model-00002-of-00002.bin")


def _plain_pickle(folder: Path) -> None:
    (folder / "pytorch_model-00002-of-00002.bin").write_bytes(pickle.dumps(Hostile(folder.parent / "owned")))


def _twice(folder: Path) -> None:
    shutil.copy(folder / "pytorch_model-00002-of-00002.bin", folder / "pytorch_model-00003.bin")


def _outside(folder: Path) -> None:
    index = folder / "pytorch_model.bin.index.json"
    shutil.move(folder / "pytorch_model-00002-of-00002.bin", folder.parent / "stolen.bin")
    index.write_text(index.read_text().replace("pytorch_model-00002-of-00002.bin", "../stolen.bin"))


def _rewrite(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        file = folder / "pytorch_model-00001-of-00002.bin"
        held = torch.load(file, weights_only=True)
        change(held)
        torch.save(held, file)

    return rewrite


def _huge(held: dict[str, torch.Tensor]) -> None:
    held["model.norm.weight"] = torch.zeros(1).expand(10**12)


def _normalises(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(published.spm(remove_extra_whitespaces=True))


def _set(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **changes)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (_truncate, r"pytorch_model-00002-of-00002\.bin' cannot be loaded"),
    "compressed": (_compress, r"pytorch_model-00002-of-00002\.bin' cannot be loaded: it is damaged"),
    "hostile": (_hostile, r"pytorch_model-00002-of-00002\.bin' cannot be loaded"),
    "plain pickle": (_plain_pickle, r"pytorch_model-00002-of-00002\.bin' cannot be loaded"),
    "outside": (_outside, r"\d+ weights do not fit, such as model\..*, got none"),
    "lost": (lambda folder: (folder / "pytorch_model-00002-of-00002.bin").unlink(), "weights do not fit, such as"),
    "twice": (_twice, r"pytorch_model-00003\.bin' holds model\..*, as an earlier file does"),
    "dropped": (_rewrite(lambda held: held.pop("lm_head.weight")), r"1 weights do not fit, such as model\.lm"),
    "surplus": (_rewrite(lambda held: held.update(other=torch.ones(1))), "model.lm.other: expected none"),
    "shape": (_rewrite(lambda held: held.update({"lm_head.weight": torch.ones(3, 5)})), r"expected \[\d+, 32\], got"),
    "whole numbers": (_rewrite(lambda held: held.update(n=torch.ones(1).int())), "n: expected a tensor of floats"),
    "text": (_rewrite(lambda held: held.update(other="text")), "other: expected a tensor of floats"),
    "huge": (_rewrite(_huge), "its tensors are larger than the file"),
    "layers": (_set(num_hidden_layers=10**9), "num_hidden_layers: 1000000000 are more than there are weights"),
    "not a number": (_set(rms_norm_eps=float("nan")), "'NaN'"),
    "marks": (_set(num_time_tokens=10**9), "num_time_tokens: expected 2 to"),
    "other marks": (_set(num_time_tokens=T - 1), "already carries 20 time tokens"),
    "other ids": (_set(time_token_ids=TIMES[::-1]), "time_token_ids: they are not"),
    "no frames": (_set(num_frames=-3), "num_frames: expected an integer of at least 1, got -3"),
    "kind": (_set(model_type="mpt"), "model_type: expected one of"),
    "pooling": (_set(video_arch="temporal_all_resolution"), "video_arch: expected one of"),
    "projector": (_set(mm_projector_type="mlp_downsample"), "mm_projector_type: expected one of"),
    "vocabulary": (_set(vocab_size=num_pieces()), r"model\.embed_tokens\.weight: expected \[\d+, 32\], got"),
    "normaliser": (_normalises, r"tokenizer\.model: it normalises text"),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: not readable as JSON"),
    "ids": (
        lambda folder: (folder / "added_tokens.json").write_text(json.dumps({f"<t{k}>": 500 + k for k in range(T)})),
        r"added_tokens\.json: '<t0>' cannot have the id 500",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), "cannot be loaded"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_or_hostile_checkpoint_is_refused_and_nothing_written(fault: str, home: Path, tmp_path: Path) -> None:
    source = copy(home, tmp_path / "source")
    break_it, told = BROKEN[fault]
    break_it(source)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelFolderError, match=told) as raised:
        convert(source, vision=home / "clip", out=tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_tower_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no_such_tower"):
        convert(home / "lita", vision="no_such_tower", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_full_folder_or_a_file_is_refused_at_once(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(ArgumentError, match="out: expected a new or empty folder"):
            convert(tmp_path / "nothing", vision=home / "clip", out=out)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_interruption_leaves_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(part: Any, path: Path, **options: Any) -> None:
        save_file(part, path, **options)
        if "00002" in path.name.partition("-of")[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr("timetok.lita.convert.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(home / "lita", vision=home / "clip", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def _mutate(folder: Path, random: np.random.Generator) -> str:
    """One fault in a file of weights or of text; says which."""
    file = random.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    data, how = bytearray(file.read_bytes()), str(random.choice(["cut", "flip", "ends", "value", "key"]))
    if how in ("value", "key") and file.suffix == ".json":
        content = json.loads(data)
        name = random.choice(sorted(content))
        if how == "value":
            wrong: list[Any] = [None, -1, 0, 10**12, float("nan"), "text", [], {}, True, 0.5]
            content[name] = wrong[random.integers(len(wrong))]
        else:
            content.pop(name)
        file.write_text(json.dumps(content))
        return f"{how} of {name} in {file.name}"
    if how == "cut":
        file.write_bytes(data[: random.integers(len(data))])
        return f"{how} of {file.name}"
    reach = len(data) if how == "flip" else min(len(data), 600)  # headers stand at the start, those of a zip at the end
    place = int(random.integers(reach)) * (1 if random.integers(2) else -1)
    data[place] ^= 1 << int(random.integers(8))
    file.write_bytes(data)
    return f"bit at {place} of {file.name}"


@pytest.mark.slow
@pytest.mark.parametrize("pickled", [True, False])
def test_50_mutated_checkpoints_are_refused_or_converted_right(pickled: bool, home: Path, tmp_path: Path) -> None:
    original = published.make(tmp_path / "parts")
    source, out, random = tmp_path / "source", tmp_path / "out", np.random.default_rng(int(pickled))
    refused = 0
    for _ in range(50):
        published.lita(source, original, pickled=pickled)
        told = _mutate(source, random)
        with suppress(ModelFolderError):
            convert(source, vision=home / "clip", out=out)
        if sorted(path.name for path in tmp_path.iterdir()) == ["parts", "source"]:
            refused += 1
        else:
            held, localizer = tensors(out), Localizer.load(out)
            for file in source.glob("pytorch_model-*.bin" if pickled else "model-*.safetensors"):
                stored = torch.load(file, weights_only=True) if pickled else load_file(file)
                for name, tensor in stored.items():
                    ours = held[f"model.{name.removeprefix('model.mm_')}" if "mm_" in name else f"model.lm.{name}"]
                    assert torch.equal(ours.view(torch.int32), tensor.view(torch.int32)), told
            config = json.loads((source / "config.json").read_text())
            text = {name: value for name, value in config.items() if name in published.TEXT}
            expected, found = LlamaConfig(**text), localizer.model.config.text_config
            assert all(getattr(found, name) == getattr(expected, name) for name in published.TEXT), told
            assert list(localizer.processor.tt.time_token_ids) == config.get("time_token_ids", TIMES), told
            shutil.rmtree(out)
        shutil.rmtree(source)
    assert refused > 20


MEASURED = """
import sys
from pathlib import Path
from timetok.lita.convert import convert
from timetok.vision import FrameEncoder, FrameTransform

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line[:5] in ("VmHWM", "VmRSS")}

home, source = Path(sys.argv[1]), sys.argv[2]
convert(home / "lita", vision=home / "clip", out=Path(source) / "warm")  # what is loaded once
Path("/proc/self/clear_refs").write_text("5")
before = peak()["VmRSS"]
convert(source + "/large", vision=home / "clip", out=source + "/out")
print(peak()["VmHWM"] - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("pickled", [True, False])
def test_no_more_than_one_shard_is_held(pickled: bool, home: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks are read from Linux")
    wide: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 6}
    original = published.make(tmp_path, **wide)
    source = published.lita(tmp_path / "large", original, shards=6, pickled=pickled, **wide)
    largest = max(file.stat().st_size for file in source.glob("*-of-*"))
    assert largest > 35e6
    command = [sys.executable, "-c", MEASURED, str(home), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.3 * largest, done.stdout
