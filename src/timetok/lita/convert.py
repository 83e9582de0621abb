"""LITA's, LLaVA-1.5's and VILA's checkpoints → a LITA folder, file by file. Shapes: v vocabulary, d language width."""

import json
import os
import re
import tomllib
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, LlamaTokenizer, PreTrainedTokenizerFast

from timetok.atomic import read_json, replacing, write_json
from timetok.errors import ArgumentError, ModelFolderError
from timetok.lita.answer import telling_which
from timetok.lita.modeling import LitaConfig, LitaForConditionalGeneration
from timetok.lita.processing import LitaProcessor
from timetok.tokenizer import TimeTokenizer
from timetok.vision import FrameEncoder, FrameTransform

_PUBLISHED = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))
VICUNA: str = _PUBLISHED["system"]  # what stands in front of every conversation
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_TABLES = ("model.lm.model.embed_tokens.weight", "model.lm.lm_head.weight")
_PROJECTOR = re.compile(r"^(?:model\.)?mm_projector\.|^layers\.")  # "layers" is VILA's
_UNUSED = re.compile(r"model\.vision_tower\.|.*\.rotary_emb\.inv_freq$")  # another's is used; computed
_NOT_THE_LMS = {"architectures", "dtype", "transformers_version"}

Folder = str | os.PathLike[str]
_Json = dict[str, Any]
_read = partial(read_json, kind=dict, expected="the settings of a checkpoint")


def convert(source: Folder, *, vision: Folder, out: Folder, base: Folder | None = None) -> None:
    """Turn a checkpoint in a published layout into a folder for ``from_pretrained`` and `Localizer`.

    Weights keep their numbers and dtype. Of pickles only tensors are read, files are held one at a time. Text is
    tokenised as by the slow, ``legacy`` Llama tokenizer of transformers 4.31: spaces beside added tokens vanish.
    ModelFolderError is raised where a file is missing, damaged, or not what can be converted; nothing is left behind.

    Args:
        source: LITA's layout (``model_type`` ``"lita"``), LLaVA-1.5's (``"llava"``, ``"llava_llama"``) or VILA's (an
            ``llm`` and an ``mm_projector`` inside). Where it names no ``video_arch``, that of the published LITA; where
            it has no time tokens, the model writes seconds as text.
        vision: A CLIP folder of Hugging Face, or the name of a timm model whose weights timm has at hand.
        out: A new or empty folder, else ArgumentError is raised.
        base: A plain language model, for a ``source`` with an ``mm_projector.bin`` alone: the projector, and the time
            tokens' rows of ``embed_tokens`` and ``lm_head``, or whole tables, of which these rows are taken by id.
            It follows LLaVA's; no published LITA of this kind could be tried.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArgumentError(f"out: expected a new or empty folder, got {os.fspath(out)!r}")
    with telling_which(source):
        settings, text, files, delta = _find(Path(source), None if base is None else Path(base))
    encoder, transform = read_eyes(vision, layer=settings["mm_vision_select_layer"])
    with telling_which(source):
        words = Path(source) if (Path(source) / "tokenizer.model").is_file() else files[0].parent
        processor, config = _describe(settings, text, _tokenizer(words), encoder, transform)
    ids = config.time_token_ids
    tables = {name: each for name, each in _tensors(delta).items() if name in _TABLES} if delta and ids else {}
    rows = {name: each if len(each) == len(ids) else each[ids[0] : ids[-1] + 1] for name, each in tables.items()}
    tied = _TABLES[1:] if config.tie_word_embeddings else ()
    held: dict[str, Tensor] = {}  # without their numbers
    index: dict[str, str] = {}
    with replacing(out) as partial:
        partial.mkdir(parents=True)
        for number, path in enumerate(tqdm([None, *files], "converting", unit="file"), start=1):  # None: its eyes
            found = encoder.state_dict(prefix="model.vision.") if path is None else _tensors(path)
            left_out = _TABLES if path == delta else tied
            part = {name: each.contiguous() for name, each in found.items() if name not in left_out}
            for name in part.keys() & rows.keys():
                table = part[name]
                part[name] = torch.cat([table[: ids[0]], rows[name].to(table), table[ids[-1] + 1 :]])
            if twice := held.keys() & part.keys():
                raise ModelFolderError(f"model: {str(path)!r} holds {min(twice)}, as an earlier file does")
            file = f"model-{number:05d}-of-{len(files) + 1:05d}.safetensors"
            save_file(part, partial / file, metadata={"format": "pt"})
            held |= {name: each.to("meta") for name, each in part.items()}
            index |= dict.fromkeys(part, file)
        with telling_which(source):
            _check(config, held)
        write_json(partial / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
        config.dtype = held[_TABLES[0]].dtype
        config.save_pretrained(partial)
        processor.save_pretrained(partial)


def read_eyes(vision: Folder, *, layer: int = -2) -> tuple[FrameEncoder, FrameTransform]:
    """The tower of a CLIP folder, or of a timm model with the weights timm has, and what it sees; ModelFolderError."""
    with telling_which(vision):
        if Path(vision).is_dir():
            encoder = FrameEncoder.from_clip(vision, layer=layer)
            return encoder, FrameTransform(encoder.image_size)
        transform = FrameTransform.of(os.fspath(vision))
        return FrameEncoder(os.fspath(vision), image_size=transform.image_size, layer=layer, pretrained=True), transform


def read_projector(file: Folder) -> dict[str, Tensor]:
    """A projector's weights from a file in LLaVA's or VILA's layout; ModelFolderError where it is not one."""
    begin, found = "model.projector.", _tensors(Path(file))
    return {name.removeprefix(begin): tensor for name, tensor in found.items() if name.startswith(begin)}


def _find(folder: Path, base: Path | None) -> tuple[_Json, _Json, list[Path], Path | None]:
    """Settings, those of the language model, and files of weights, one of which may be a delta."""
    settings, delta = _PUBLISHED["otherwise"] | _read(folder / "config.json"), None
    lm = folder / "llm" if (folder / "llm").is_dir() else base or folder
    text, files = _read(lm / "config.json"), _weight_files(lm)
    if lm == folder:
        text["model_type"] = "llama"
    elif lm == base:
        if _weight_files(folder):
            raise ModelFolderError("it has weights of its own; leave base out")
        delta = folder / "mm_projector.bin"
        text, files = text | settings | {"model_type": text["model_type"]}, [*files, delta]
    else:
        settings |= _read(folder / "mm_projector" / "config.json") | {"model_type": None}
        files += _weight_files(folder / "mm_projector")
    if not files:
        raise ModelFolderError("it holds no weights; of a folder with an mm_projector.bin alone, name the base, too")
    for name, can in _PUBLISHED["can"].items():
        settings[name] = can[0] if settings.get(name) is None else settings[name]
        if settings[name] not in can:
            raise ModelFolderError(f"config.json: {name}: expected one of {can}, got {settings[name]!r}")
    known = set(AutoConfig.for_model(text["model_type"]).to_dict()) - _NOT_THE_LMS | {"rope_theta", "rope_scaling"}
    return settings, {name: value for name, value in text.items() if name in known}, files, delta


def _weight_files(folder: Path) -> list[Path]:
    return next(filter(None, (sorted(folder.glob(pattern)) for pattern in _WEIGHTS)), [])


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under our names, mapped into memory."""
    with telling_which(path):
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            with ZipFile(path) as archive:  # torch checks no sums of what it maps
                if archive.testzip() or any(part.compress_type for part in archive.infolist()):
                    raise ModelFolderError("it is damaged, or compressed")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        named = {name: tensor for name, tensor in loaded.items() if not _UNUSED.match(name)}
        for name, tensor in named.items():
            if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.layout == torch.strided):
                raise ModelFolderError(f"{name}: expected a tensor of floats")
        if sum(tensor.nbytes for tensor in named.values()) > path.stat().st_size:  # one number may claim to be a table
            raise ModelFolderError("its tensors are larger than the file")
        ours = {name: _PROJECTOR.sub("projector.", name) for name in named}
        return {f"model.{new}" if new != name else f"model.lm.{name}": named[name] for name, new in ours.items()}


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder as `convert` says; its ids are the checkpoint's."""
    from sentencepiece import SentencePieceProcessor  # only here, and in the extra `train`

    loaded = LlamaTokenizer.from_pretrained(folder, local_files_only=True)
    description = json.loads(loaded.backend_tokenizer.to_str())
    for token in description["added_tokens"]:
        token |= {"normalized": False} | ({} if token["special"] else {"lstrip": True, "rstrip": True})
    backend = Tokenizer.from_str(json.dumps(description))
    # Each segment between added tokens starts with a "▁" of its own, as where SentencePiece encodes it alone.
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **loaded.special_tokens_map)
    pieces, probe = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")), f"  {VICUNA}\n  12 é"
    if pieces.encode(probe) != tokenizer.encode(probe, add_special_tokens=False):
        raise ModelFolderError("tokenizer.model: it normalises text, which Llama's does not")
    added = folder / "added_tokens.json"
    for token, index in (_read(added) if added.is_file() else {}).items():
        if tokenizer.convert_tokens_to_ids(token) != index:
            raise ModelFolderError(f"{added.name}: {token!r} cannot have the id {index!r}")
    return tokenizer


def _describe(
    settings: _Json, text: _Json, tokenizer: PreTrainedTokenizerFast, encoder: FrameEncoder, transform: FrameTransform
) -> tuple[LitaProcessor, LitaConfig]:
    """What stands beside the weights; time tokens have the ids that the settings name."""
    num, projector = settings.get("num_time_tokens"), settings["mm_projector_type"]
    if num:
        if not 1 < num < len(tokenizer):  # adding a billion would never end
            raise ModelFolderError(f"num_time_tokens: expected 2 to {len(tokenizer) - 1}, got {num}")
        TimeTokenizer.wrap(tokenizer, num, lita_spacing=True)  # before the placeholder takes an id
    crop = {"crop": "squash"} if settings.get("image_aspect_ratio") == "resize" else {}  # VILA's
    pooler = {"preset": f"lita-{settings['video_arch'].replace('_', '-')}"}
    num_frames = settings.get("num_video_frames", settings["num_frames"])
    shared: _Json = {"num_frames": num_frames, "num_time_tokens": num or 100, "pooler": pooler}
    ours: _Json = {"codec": "index" if num else "seconds", "lita_spacing": bool(num), "system": VICUNA, **shared}
    processor = LitaProcessor(tokenizer, transform=vars(transform) | crop, grid=encoder.grid, **ours)
    ids = list(processor.tt.time_token_ids)
    if settings.get("time_token_ids") not in (None, [], ids):
        raise ModelFolderError(f"time_token_ids: they are not the tokenizer's, which start with {ids[:1]}")
    shared |= {"projector": projector, "order": "pool-first" if projector == "linear" else "project-first"}
    shared |= {"time_token_ids": ids, "video_token_id": processor.video_token_id, "vision": encoder.arguments}
    return processor, LitaConfig(text_config=text, architectures=["LitaForConditionalGeneration"], **shared)


def _check(config: LitaConfig, held: dict[str, Tensor]) -> None:
    if (layers := config.text_config.num_hidden_layers) > len(held):  # building a billion would never end
        raise ModelFolderError(f"num_hidden_layers: {layers} are more than there are weights")
    with torch.device("meta"):
        model = LitaForConditionalGeneration(config)
    wanted = {name: list(each.shape) for name, each in model.state_dict().items()}
    found = {name: list(each.shape) for name, each in held.items()}
    wrong = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if wrong := [name for name in wrong if name not in model.all_tied_weights_keys]:
        expected, got = wanted.get(wrong[0], "none"), found.get(wrong[0], "none")
        raise ModelFolderError(f"{len(wrong)} weights do not fit, such as {wrong[0]}: expected {expected}, got {got}")
