"""Checkpoints of the original LITA, of LLaVA-1.5 and of VILA → a LITA folder, file by file.

Shapes: v vocabulary, d language width.
"""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, GenerationConfig, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from timetok.atomic import read_json, replacing, write_json
from timetok.errors import ArgumentError, ModelFolderError
from timetok.lita.answer import telling_which
from timetok.lita.configuration import LitaConfig
from timetok.lita.modeling import LitaForConditionalGeneration
from timetok.lita.processing import LitaProcessor
from timetok.tokenizer import TimeTokenizer
from timetok.vision import FrameEncoder, FrameTransform

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""What stands in front of every conversation: Vicuna v1 of FastChat (Apache-2.0)."""

_CAN: dict[str, tuple[Any, ...]] = {  # what settings may be, first what they are where a checkpoint has none
    "model_type": ("lita", "llava", "llava_llama"),
    "video_arch": ("temporal_spatial_pool", "temporal", "spatial", "temporal_spatial", "spatial_pool"),
    "mm_projector_type": ("linear", "mlp2x_gelu"),
    "mm_vision_select_feature": ("patch",),
    "mm_use_im_start_end": (False,),
    "input_type": ("video",),
}
_WEIGHTS = {"model.safetensors.index.json": "model*.safetensors", "pytorch_model.bin.index.json": "pytorch_model*.bin"}
_TABLES = ("model.lm.model.embed_tokens.weight", "model.lm.lm_head.weight")
_PROJECTOR = re.compile(r"(?:(?:model\.)?mm_projector|layers)\.((?:\d+\.)?(?:weight|bias))")  # "layers" is VILA's
_UNUSED = re.compile(r"model\.vision_tower\.|.*\.rotary_emb\.inv_freq$")  # another's is used; computed
_Held = dict[str, tuple[Path, Tensor]]  # by name: the file, and a meta tensor
_NOT_THE_LMS = {"model_type", "architectures", "dtype", "transformers_version"}


def convert(
    source: str | os.PathLike[str],
    *,
    vision: str | os.PathLike[str],
    out: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    num_time_tokens: int | None = None,
) -> None:
    """Turn a checkpoint in a published layout into a folder for ``from_pretrained`` and `Localizer`.

    Weights keep their numbers and dtype. Of pickles only tensors are read, files are held one at a time, and the
    folder appears when it is complete. Text is tokenised as by the slow Llama tokenizer of transformers 4.31, in its
    default mode, ``legacy``, whatever the folder says: spaces beside added tokens vanish.

    Args:
        source: LITA's layout (``model_type`` ``"lita"``), LLaVA-1.5's (``"llava"``, ``"llava_llama"``) or VILA's (an
            ``llm`` and an ``mm_projector`` inside). Where it names no ``video_arch``, that of the published LITA.
        vision: A CLIP folder of Hugging Face, or the name of a timm model whose weights timm has at hand.
        out: A new or empty folder, else ArgumentError is raised.
        base: A plain language model, for a LITA or LLaVA that holds no weights but an ``mm_projector.bin``: the
            projector, and of ``embed_tokens`` and ``lm_head`` the time tokens' rows alone or whole tables, of which
            these rows are taken by id. It follows LLaVA's; no published LITA of this kind could be tried.
        num_time_tokens: Time tokens for a model that has none, with random rows to be trained, from torch's global
            generator. If None, such a model writes seconds as text.

    Raises:
        ModelFolderError: A file is missing, damaged, or not what can be converted; nothing was written.

    >>> convert("lita-13b", vision="clip-vit-large-patch14", out="lita")  # doctest: +SKIP
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArgumentError(f"out: expected a new or empty folder, got {os.fspath(out)!r}")
    with telling_which(source):
        found = _find(Path(source), None if base is None else Path(base))
    held = _held(found)
    with telling_which(vision):
        encoder, transform = _encoder(vision, found.settings.get("mm_vision_select_layer", -2))
    with telling_which(source):
        processor = _processor(found, encoder.grid, transform, num_time_tokens)
        config = _config(found, encoder, processor, held)
        rows = _new_rows(found.delta, config) if found.delta or num_time_tokens else {}
        places = _places(config, held, rows)
    with replacing(out) as partial:
        partial.mkdir(parents=True)
        index: dict[str, str] = {}
        for number, path in enumerate(tqdm([None, *found.files], "converting", unit="file"), start=1):
            tensors = encoder.state_dict(prefix="model.vision.") if path is None else _tensors(path)
            part = {name: tensor.contiguous() for name, tensor in tensors.items() if places.get(name) == path}
            part |= {name: _grown(part[name], rows[name], config) for name in rows.keys() & part.keys()}
            file = f"model-{number:05d}-of-{len(found.files) + 1:05d}.safetensors"
            save_file(part, partial / file, metadata={"format": "pt"})
            index |= dict.fromkeys(part, file)
        write_json(partial / next(iter(_WEIGHTS)), {"metadata": {}, "weight_map": index})
        config.save_pretrained(partial)
        processor.save_pretrained(partial)
        ids = {f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        GenerationConfig(**ids).save_pretrained(partial)


class _Found(NamedTuple):
    """The parts of a checkpoint; ``text`` are the settings of its language model, ``delta`` is one of its files."""

    settings: dict[str, Any]
    text: dict[str, Any]
    files: list[Path]
    delta: Path | None
    tokenizer: Path


def _find(folder: Path, base: Path | None) -> _Found:
    """Tell the layouts apart, and refuse what cannot be converted."""
    settings = _read(folder / "config.json")
    lm = folder / "llm" if (folder / "llm").is_dir() else base or folder
    text, files, delta = _read(lm / "config.json"), _weight_files(lm), None
    if lm == base:
        if _weight_files(folder):
            raise ModelFolderError("it has weights of its own; leave base out")
        text, delta = text | settings | {"model_type": text["model_type"]}, folder / "mm_projector.bin"
        files.append(delta)
    elif lm == folder:
        text["model_type"] = "llama"
    else:
        settings["model_type"] = None
        settings["mm_projector_type"] = _read(folder / "mm_projector" / "config.json")["mm_projector_type"]
        files += _weight_files(folder / "mm_projector")
    if not files:
        raise ModelFolderError("it holds no weights; of a folder with an mm_projector.bin alone, name the base, too")
    for name, can in _CAN.items():
        settings[name] = can[0] if settings.get(name) is None else settings[name]
        if settings[name] not in can:
            known = " or ".join(map(repr, can))
            raise ModelFolderError(f"config.json: {name}: expected {known}, got {settings[name]!r}")
    return _Found(settings, text, files, delta, folder if (folder / "tokenizer.model").is_file() else lm)


def _read(path: Path) -> dict[str, Any]:
    """An object of a JSON file in which every number is one."""
    content: dict[str, Any] = read_json(path, dict, "the settings of a checkpoint")
    json.dumps(content, allow_nan=False)
    return content


def _weight_files(folder: Path) -> list[Path]:
    """The files of a folder's weights; those that an index names must lie beside it."""
    for index, pattern in _WEIGHTS.items():
        if (folder / index).is_file():
            by_name = _read(folder / index).get("weight_map")
            files = sorted(set(map(str, by_name.values()))) if isinstance(by_name, dict) else [""]
            for file in files:
                if Path(file).name != file or not (folder / file).is_file():
                    raise ModelFolderError(f"{index}: expected names of files beside it, got {file!r}")
            return [folder / file for file in files]
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _tensors(path: Path, *, check: bool = False) -> dict[str, Tensor]:
    """The tensors of a file under our names, mapped into memory; ``check`` reads all of a pickle for its sums."""
    with telling_which(path):
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            with ZipFile(path) as archive:  # torch checks nothing of what it maps
                if check and (archive.testzip() or any(part.compress_type for part in archive.infolist())):
                    raise ModelFolderError("it is damaged")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        tensors = {}
        for name, tensor in loaded.items():
            if _UNUSED.match(name):
                continue
            if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.layout == torch.strided):
                raise ModelFolderError(f"{name}: expected a tensor of floats")
            projector = _PROJECTOR.fullmatch(name)
            tensors[f"model.projector.{projector[1]}" if projector else f"model.lm.{name}"] = tensor
        if sum(tensor.nbytes for tensor in tensors.values()) > path.stat().st_size:  # one number that claims to be many
            raise ModelFolderError("its tensors are larger than the file")
        return tensors


def _held(found: _Found) -> _Held:
    """Everything that is there, but for a delta's rows."""
    held: _Held = {}
    for path in found.files:
        for name, tensor in _tensors(path, check=True).items():
            if path == found.delta and name in _TABLES:
                continue
            if name in held:
                raise ModelFolderError(f"model: {os.fspath(path)!r} holds {name}, and so does {held[name][0].name!r}")
            held[name] = path, tensor.to("meta")
    return held


def _encoder(vision: str | os.PathLike[str], layer: int) -> tuple[FrameEncoder, FrameTransform]:
    if Path(vision).is_dir():
        encoder = FrameEncoder.from_clip(vision, layer=layer)
        return encoder, FrameTransform(encoder.image_size)
    transform = FrameTransform.of(os.fspath(vision))
    return FrameEncoder(os.fspath(vision), image_size=transform.image_size, layer=layer, pretrained=True), transform


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, a SentencePiece model as `convert` says; its ids are the checkpoint's."""
    tokenizer: PreTrainedTokenizerBase
    if not (folder / "tokenizer.model").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return tokenizer
    loaded = LlamaTokenizer.from_pretrained(folder, local_files_only=True)
    description = json.loads(loaded.backend_tokenizer.to_str())
    for token in description["added_tokens"]:
        token |= {"normalized": False} | ({} if token["special"] else {"lstrip": True, "rstrip": True})
    backend = Tokenizer.from_str(json.dumps(description))
    # Each segment between added tokens starts with a "▁" of its own, as where SentencePiece encodes it alone.
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **loaded.special_tokens_map)
    added = folder / "added_tokens.json"
    for token, index in _read(added).items() if added.is_file() else ():
        if tokenizer.convert_tokens_to_ids(token) != index:
            raise ModelFolderError(f"added_tokens.json: {token!r} cannot have the id {index!r}")
    return tokenizer


def _processor(found: _Found, grid: tuple[int, int], transform: FrameTransform, new: int | None) -> LitaProcessor:
    """The processor, whose time tokens have the ids that the settings name."""
    tokenizer, settings = _tokenizer(found.tokenizer), found.settings
    own, ids = settings.get("num_time_tokens") or None, settings.get("time_token_ids") or None
    if own and new:
        raise ModelFolderError(f"num_time_tokens: it has {own} already, got {new}; leave it out")
    num = own or new
    if num and not 1 < num < len(tokenizer):  # adding a billion would never end
        raise ModelFolderError(f"num_time_tokens: expected 2 to {len(tokenizer) - 1}, got {num}")
    slow = bool(num) and (found.tokenizer / "tokenizer.model").is_file()
    if num:  # before the placeholder takes their ids
        TimeTokenizer.wrap(tokenizer, num, lita_spacing=slow)
    num_frames = settings.get("num_frames") or settings.get("num_video_frames") or 100
    if not (isinstance(num_frames, int) and num_frames > 0):
        raise ModelFolderError(f"num_frames: expected at least 1, got {num_frames!r}")
    processor = LitaProcessor(
        tokenizer,
        num_frames=num_frames,
        num_time_tokens=num or 100,
        codec="index" if num else "seconds",
        transform=asdict(transform),
        pooler={"preset": f"lita-{settings['video_arch'].replace('_', '-')}"},
        grid=grid,
        lita_spacing=slow,
        system=VICUNA,
    )
    if ids and list(processor.tt.time_token_ids) != ids:
        raise ModelFolderError(f"time_token_ids: expected those of the tokenizer's {num} time tokens, got {ids}")
    return processor


def _config(found: _Found, encoder: FrameEncoder, processor: LitaProcessor, held: _Held) -> LitaConfig:
    kind, projector, ids = found.text["model_type"], found.settings["mm_projector_type"], processor.tt.time_token_ids
    known = set(AutoConfig.for_model(kind).to_dict()) - _NOT_THE_LMS | {"rope_theta", "rope_scaling"}
    text = {name: value for name, value in found.text.items() if name in known} | {"model_type": kind}
    table = held.get(_TABLES[0], (None, torch.empty(0)))[1]
    if found.delta or (ids and not found.settings.get("num_time_tokens")):
        text["vocab_size"] = max(len(table), 1 + max(ids, default=0))
    last = max(set(processor.tokenizer.get_vocab().values()) - {processor.video_token_id})
    if last >= text["vocab_size"]:
        raise ModelFolderError(
            f"vocab_size: expected more than {last}, an id of the tokenizer, got {text['vocab_size']}"
        )
    if text["num_hidden_layers"] > len(held):  # building a billion would never end
        raise ModelFolderError(f"num_hidden_layers: {text['num_hidden_layers']} are more than there are weights")
    config = LitaConfig(
        text_config=text,
        vision=encoder.arguments,
        transform=processor.transform,
        pooler=processor.pooler,
        projector=projector,
        order="pool-first" if projector == "linear" else "project-first",
        num_frames=processor.num_frames,
        num_time_tokens=processor.num_time_tokens,
        codec=processor.codec,
        time_token_ids=ids,
        video_token_id=processor.video_token_id,
        architectures=["LitaForConditionalGeneration"],
    )
    config.dtype = table.dtype
    return config


def _new_rows(delta: Path | None, config: LitaConfig) -> dict[str, Tensor]:
    """The rows of the time tokens for each table ``[v d]``, from a delta or else drawn."""
    ids, text = config.time_token_ids, config.text_config
    names, shape = _TABLES[: 1 if config.tie_word_embeddings else 2], [len(ids), text.hidden_size]
    if delta is None:
        return {name: text.initializer_range * torch.randn(shape) for name in names}
    held, rows = _tensors(delta), {}
    for name in names if ids else ():
        found = held.get(name, torch.empty(0))
        rows[name] = found if len(found) == len(ids) else found[ids[0] : ids[-1] + 1]
        if list(rows[name].shape) != shape:
            raise ModelFolderError(f"{delta.name}: {name}: expected the time tokens' {shape}, got {list(found.shape)}")
    return rows


def _places(config: LitaConfig, held: _Held, rows: dict[str, Tensor]) -> dict[str, Path | None]:
    """The file of each tensor that the model has, where all are there, in their sizes, and no others; else refuse."""
    with torch.device("meta"):
        model = LitaForConditionalGeneration(config)
    tied: Any = model.all_tied_weights_keys
    wanted = {name: list(each.shape) for name, each in model.state_dict().items() if name not in tied}
    eyes = [name for name in wanted if name.startswith("model.vision.")]
    shapes = {name: list(tensor.shape) for name, (_, tensor) in held.items() if name not in tied}
    shapes |= {name: wanted[name] for name in eyes}
    for name in rows:
        if config.time_token_ids[0] <= shapes[name][0] < config.text_config.vocab_size:
            shapes[name][0] = config.text_config.vocab_size  # it will grow
    wrong = [name for name in wanted | shapes if wanted.get(name) != shapes.get(name)]
    if wrong:
        expected, got = wanted.get(wrong[0], "none"), shapes.get(wrong[0], "none")
        raise ModelFolderError(
            f"{len(wrong)} weights are not right, such as {wrong[0]}: expected {expected}, got {got}"
        )
    return dict.fromkeys(eyes) | {name: held[name][0] for name in wanted if name not in eyes}


def _grown(table: Tensor, rows: Tensor, config: LitaConfig) -> Tensor:
    """A table with a row for every id, those of time tokens from ``rows``."""
    ids, size = config.time_token_ids, config.text_config.vocab_size
    grown = torch.cat([table, table.new_zeros(size - len(table), table.shape[1])])
    grown[ids[0] : ids[-1] + 1] = rows
    return grown
