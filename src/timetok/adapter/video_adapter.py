"""``VideoAdapter``: a ``VideoLM`` that brings its tokenizer, and can be saved without the LM.

Shapes: t frames, p patches, e vision width, d language width.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from timetok import __version__
from timetok.adapter.encoded import EncodedVideo
from timetok.adapter.prompts import VideoPrompts, video_token_id
from timetok.adapter.video_lm import Order, ProjectorName, VideoLM
from timetok.atomic import read_json, write_json
from timetok.attention import FrameMask
from timetok.embeddings import tables
from timetok.errors import ArgumentError, ModelFolderError
from timetok.pooling import SlowFastPooler
from timetok.tokenizer import TimeTokenizer

_SETTINGS, _WEIGHTS, _CARD = "adapter_config.json", "adapter.safetensors", "README.md"


class VideoAdapter(VideoLM):
    r"""Time tokens, a pooler and a projector on a causal LM; arguments as in ``VideoLM``, but for these two.

    Args:
        lm: A causal LM whose embedding has a row for every time token; ArgumentError names the call that grows it.
        tt: Its tokenizer, wrapped.

    Attributes:
        processor: Prompts and features → what ``forward`` and ``generate`` take; no weights, picklable. Also `prepare`.

    >>> tt = TimeTokenizer.wrap(tokenizer, T=100)                           # doctest: +SKIP
    >>> embeddings.resize(lm, tt.time_token_ids)                            # doctest: +SKIP
    >>> adapter = VideoAdapter(lm, tt, vision_dim=1024)                     # doctest: +SKIP
    >>> batch = adapter.prepare(["USER: <video>\nWhen? ASSISTANT:"], videos=[features])  # doctest: +SKIP
    >>> adapter.generate(**batch, max_new_tokens=8)                         # doctest: +SKIP
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tt: TimeTokenizer,
        *,
        vision_dim: int,
        pooler: SlowFastPooler | None = None,
        projector: ProjectorName | nn.Module = "linear",
        order: Order = "pool-first",
        time_markers: bool = False,
        vision: nn.Module | None = None,
        temporal_rope: Sequence[float] | None = None,
        attention: FrameMask = "causal",
    ) -> None:
        ids: dict[str, Any] = {"video_token_id": video_token_id(tt.tokenizer), "time_token_ids": tt.time_token_ids}
        options: dict[str, Any] = {"vision_dim": vision_dim, "order": order, "time_markers": time_markers}
        options |= {"temporal_rope": temporal_rope, "attention": attention}
        super().__init__(lm, pooler=pooler, projector=projector, vision=vision, **ids, **options)
        rows, last = len(tables(lm)[0]), max(tt.time_token_ids, default=-1)
        if last >= rows:
            remedy = "call timetok.embeddings.resize(lm, tt.time_token_ids) first"
            raise ArgumentError(f"lm: its embedding has {rows} rows, but time tokens reach id {last}; {remedy}")
        self.prepare = self.processor = VideoPrompts(tt, self.pooler.plan, grid=getattr(vision, "grid", None))
        name = projector if isinstance(projector, str) else None
        self._settings = {**options, "projector": name, "pooler": self.pooler.arguments}

    def encode_video(
        self, features: Tensor | None = None, prefix: str | Sequence[int] = (), *, pixels: Tensor | None = None
    ) -> EncodedVideo:
        r"""As ``VideoLM.encode_video``; ``prefix`` may be trusted text, such as ``"USER: <video>\n"``."""
        if isinstance(prefix, str):
            given: Any = {"videos": [features]} if pixels is None else {"pixels": [pixels]}
            prefix = cast(list[int], self.processor([prefix], **given)["input_ids"][0].tolist())
        return super().encode_video(features, prefix, pixels=pixels)

    def save_pretrained(self, folder: str | os.PathLike[str], *, adapter_only: bool = True) -> None:
        """Write the adapter: projector, learned separators, time rows (safetensors), settings, tokenizer, a card.

        Files take their names only when all are complete, the settings last; a card that is there is kept. The encoder
        of ``vision`` is frozen and not written. ``adapter_only=False`` writes the language model too, into
        ``folder/lm``, or raises ArgumentError where peft has changed its layers; so does True where one lies there.
        """
        if hasattr(self, "peft_config") or (not adapter_only and hasattr(self.lm, "peft_config")):
            raise ArgumentError("adapter: peft has changed it; save the peft model, or merge first (merge_and_unload)")
        path = Path(folder)
        if adapter_only and (path / "lm").exists():
            raise ArgumentError(f"folder: '{path}' holds an earlier language model in lm/; remove it or choose another")
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path, prefix=".part-") as name:
            part = Path(name)
            self.processor.tt.save_pretrained(part)
            if not adapter_only:
                self.lm.save_pretrained(part / "lm")
            ids = list(self.time_token_ids)
            rows = {name: weight.detach()[ids] for name, weight in _time_rows(self.lm, ids)}
            tensors = self.projector.state_dict(prefix="projector.") | self.pooler.state_dict(prefix="pooler.") | rows
            data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
            (part / _WEIGHTS).write_bytes(data)  # save_file makes files only the owner can read
            write_json(part / _SETTINGS, self._settings)
            if not (path / _CARD).exists():
                (part / _CARD).write_text(self._card(adapter_only), encoding="utf-8")
            files = (file for file in part.rglob("*") if file.is_file())
            for file in sorted(files, key=lambda file: file.name == _SETTINGS):  # the settings last
                target = path / file.relative_to(part)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)

    def _card(self, adapter_only: bool) -> str:
        base = self.lm.config.name_or_path or type(self.lm).__name__
        told = {"base_model": base, "lm": base if adapter_only else "FOLDER/lm", "version": __version__}
        text = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
        return text.format(**self._settings, **told, num_time_tokens=len(self.time_token_ids))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        lm: PreTrainedModel | None = None,
        projector: nn.Module | None = None,
        vision: nn.Module | None = None,
    ) -> Self:
        """Read back what ``save_pretrained`` wrote.

        Args:
            folder: Where it is; ModelFolderError is raised where a file is missing or not readable.
            lm: The language model, whose time rows are overwritten; None reads ``folder/lm``. ArgumentError is raised
                where it has no rows for the time tokens or does not fit the saved ones.
            projector: Needed where the saved adapter had a projector of its own class.
            vision: As in ``VideoLM``.
        """
        path = Path(folder)
        if lm is None and not (path / "lm").is_dir():
            raise ModelFolderError(f"folder: {str(path)!r} lacks lm/, a saved language model; pass lm=")
        try:
            settings: dict[str, Any] = read_json(path / _SETTINGS, dict, "the settings of an adapter")
            tensors = load_file(path / _WEIGHTS)
            saved, pooler = settings.pop("projector"), SlowFastPooler(**settings.pop("pooler"))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelFolderError(f"folder: {str(path)!r} holds no readable adapter: {error}") from error
        kind = saved if projector is None else projector
        if kind is None:
            raise ArgumentError("projector: the saved adapter had a projector of its own class; pass one of that class")
        lm = lm or AutoModelForCausalLM.from_pretrained(path / "lm")
        adapter = cls(lm, TimeTokenizer.from_pretrained(path), projector=kind, pooler=pooler, vision=vision, **settings)
        for name, part in (("projector.", adapter.projector), ("pooler.", adapter.pooler)):
            state = {key.removeprefix(name): tensor for key, tensor in tensors.items() if key.startswith(name)}
            part.to(dtype=next((tensor.dtype for tensor in state.values()), None))
            part.load_state_dict(state)
        _load_rows(lm, adapter.time_token_ids, tensors)
        return adapter


def _time_rows(lm: PreTrainedModel, ids: Sequence[int]) -> list[tuple[str, Tensor]]:
    """The matrices that hold time rows, by the names of those rows in the file; none without ids."""
    return list(zip(("time_rows.input", "time_rows.output"), tables(lm), strict=False)) if ids else []


@torch.no_grad()
def _load_rows(lm: PreTrainedModel, ids: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
    """Overwrite the LM's time rows with the saved ones."""
    for name, weight in _time_rows(lm, ids):
        if not isinstance(weight, nn.Parameter):
            raise ArgumentError("lm: its embedding is wrapped by peft; load the adapter first, then wrap the LM")
        if name not in tensors or tensors[name].shape != (len(ids), weight.shape[1]):
            came, wanted = list(tensors[name].shape) if name in tensors else "none", [len(ids), weight.shape[1]]
            remedy = "pass a language model of the width and with the tied or untied head the adapter was saved with"
            raise ArgumentError(f"lm: it needs {name} of shape {wanted}, the folder has {came}; {remedy}")
        weight[list(ids)] = tensors[name].to(weight)
