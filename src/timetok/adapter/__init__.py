"""The pieces on a causal LM, which stays itself: nothing is subclassed; masks, caches and generation are its own.

Shapes: b batch, m videos, t frames, c channels, p patches, h w grid, e vision, d LM width, n visual tokens, s sequence.
"""

import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self, cast, get_args

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from timetok import __version__
from timetok.adapter.hooks import EncodedVideo, check, generate_about, placed, remember, share_again, splice, store_once
from timetok.adapter.prompts import VIDEO_TOKEN, TokenIds, VideoPrompts
from timetok.atomic import read_json, write_json
from timetok.attention import FrameMask
from timetok.embeddings import ROWS, load_rows, rows_of, tables
from timetok.errors import ArgumentError, ModelFolderError, PromptError, raised_as
from timetok.losses import SoftTimeLoss
from timetok.pooling import SlowFastPooler
from timetok.timegrid import TimeGrid
from timetok.tokenizer import TimeTokenizer

__all__ = ["VIDEO_TOKEN", "EncodedVideo", "TokenIds", "VideoAdapter", "VideoPrompts", "splice"]
Order = Literal["pool-first", "project-first"]
ProjectorName = Literal["linear", "mlp2x_gelu"]
Videos = Tensor | Sequence[Tensor | EncodedVideo]
_SETTINGS, _WEIGHTS, _CARD = "adapter_config.json", "adapter.safetensors", "README.md"

# What trainers, accelerate and peft ask of a model, and the LM answers
_ASKED = {*tomllib.loads(Path(__file__).with_name("asked.toml").read_text(encoding="utf-8"))["names"]}


class VideoAdapter(nn.Module):
    r"""Time tokens, a pooler and a projector on a causal LM. Bad settings raise ArgumentError.

    ``processor``, or ``prepare``: prompts and features → what ``forward`` and ``generate`` take; no weights, picklable.

    Args:
        lm: Any causal LM of transformers whose embedding has a row for every time token.
        tt: Its tokenizer, wrapped; or `TokenIds` where ids come in and go out, as in LITA, and nothing is saved here.
        vision_dim, pooler: The width e of features, and what pools them, ``[b t p e]`` → ``[b n e]``; LITA's if None.
        projector: ``"linear"`` (LITA's), ``"mlp2x_gelu"`` (LLaVA-1.5's) or a module e → d.
        order: To pool first is cheaper, and the same with a linear projector; an MLP needs the order it was trained in.
        time_markers: Add the embedding of a frame's time token to its fast token. Not LITA's; see Source.
        vision: A frame encoder, ``[m t c h w]`` → ``[m t p e]``, such as `timetok.vision.FrameEncoder`, where pixels
            come in. It is frozen and stays in evaluation mode; a tower that is to be trained gives features instead.
        temporal_rope: a and b of positions ``a * n + b * t`` as `temporal_position_ids` has them, of a model with RoPE.
        attention: What visual tokens see of each other, as `frame_mask` has it; anything but ``"causal"`` needs a model
            without recurrent layers whose attention is ``"eager"`` or ``"sdpa"``.

    Source: arXiv 2403.19046 §3.3; markers: LLaVA-ST (arXiv 2501.08282); the last two: TC-LLaVA (arXiv 2409.03206).

    >>> embeddings.resize(lm, tt.time_token_ids)                            # doctest: +SKIP
    >>> adapter = VideoAdapter(lm, tt, vision_dim=1024)                     # doctest: +SKIP
    >>> batch = adapter.prepare(["USER: <video>\nWhen? ASSISTANT:"], videos=[features])  # doctest: +SKIP
    >>> adapter.generate(**batch, max_new_tokens=8)                         # doctest: +SKIP
    """

    def __init__(
        self, lm: PreTrainedModel, tt: TimeTokenizer | TokenIds, *, vision_dim: int,
        pooler: SlowFastPooler | None = None, projector: ProjectorName | nn.Module = "linear",
        order: Order = "pool-first", time_markers: bool = False, vision: nn.Module | None = None,
        temporal_rope: Sequence[float] | None = None, attention: FrameMask = "causal",
    ) -> None:  # fmt: skip
        super().__init__()
        table = getattr(lm.get_input_embeddings(), "weight", None)
        if not (isinstance(table, Tensor) and table.is_floating_point()):
            kind = table.dtype if isinstance(table, Tensor) else type(lm.get_input_embeddings()).__name__
            raise ArgumentError(f"lm: its input embedding is quantised ({kind}); quantise the other layers only")
        if order not in get_args(Order):
            raise ArgumentError(f"order: expected 'pool-first' or 'project-first', got {order!r}")
        if not isinstance(projector, nn.Module) and projector not in get_args(ProjectorName):
            raise ArgumentError(f"projector: expected 'linear', 'mlp2x_gelu' or a module, got {projector!r}")
        self.lm: Any = lm
        self.pooler, self.vision = pooler or SlowFastPooler(), vision
        rows, width = table.shape
        first = projector if isinstance(projector, nn.Module) else nn.Linear(vision_dim, width)
        is_deep = projector == "mlp2x_gelu"
        self.projector = nn.Sequential(first, nn.GELU(), nn.Linear(width, width)) if is_deep else first
        self.processor: VideoPrompts = cast(Any, None)  # what it stays with `TokenIds`, who know no text
        if isinstance(tt, TimeTokenizer):
            if (last := max(tt.time_token_ids, default=-1)) >= rows:
                remedy = "call timetok.embeddings.resize(lm, tt.time_token_ids) first"
                raise ArgumentError(f"lm: its embedding has {rows} rows, but time tokens reach id {last}; {remedy}")
            self.processor = VideoPrompts(tt, self.pooler.plan, grid=getattr(vision, "grid", None))
            tt = TokenIds(self.processor.video_token_id, tt.time_token_ids)
        self.prepare, self.video_token_id, self.time_token_ids = self.processor, tt.video, tuple(tt.time)
        self.order, self.time_markers = order, time_markers
        if time_markers and not (self.pooler.plan.fast and self.time_token_ids):
            raise ArgumentError("time_markers: markers need fast tokens and time_token_ids")
        self.temporal_rope, self.attention = None if temporal_rope is None else tuple(temporal_rope), attention
        check(lm, self.temporal_rope, attention)
        self._settings: Any = {"vision_dim": vision_dim, "projector": projector if isinstance(projector, str) else None}
        self._settings |= {"pooler": self.pooler.arguments, "order": order, "time_markers": time_markers}
        self._settings |= {"temporal_rope": temporal_rope, "attention": attention}
        if vision is not None:
            vision.requires_grad_(False).eval()
        self._tied_weights_keys = {f"lm.{name}": f"lm.{first}" for name, first in (lm._tied_weights_keys or {}).items()}
        nn.Module.register_state_dict_post_hook(self, store_once)
        nn.Module.register_load_state_dict_pre_hook(self, share_again)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name) if name in _ASKED else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        return setattr(self.lm, name, value) if name == "generation_config" else super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, except that the frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.vision is not None:
            self.vision.eval()
        return self

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """What ``vision`` sees in frames: ``[m t c h w]`` → ``[m t p e]``; ArgumentError where there is none."""
        if self.vision is None:
            raise ArgumentError("pixel_values_videos: there is no encoder; give the adapter vision=, or pass features")
        return cast(Tensor, self.vision(pixels.to(next(self.vision.parameters(), pixels))))

    def visual_tokens(self, features: Tensor) -> Tensor:
        """Pool and project: ``[m t p e]`` or ``[m t h w e]`` → ``[m n d]``.

        Features ``[m n e]`` that ``pooler`` has pooled are only projected; ArgumentError where more is done to them.
        """
        is_pooled = features.ndim == 3
        if is_pooled and (self.order != "pool-first" or self.time_markers or self.pooler.separators):
            raise ArgumentError("video_features: [n e] are for adapters that pool first, without separators or markers")
        pool = nn.Identity() if is_pooled else self.pooler
        return self._through(lambda found: pool(*found), [features], features.shape[1])

    def _through(self, pool: Callable[[Any], Tensor], pieces: Iterable[Tensor], num_frames: int) -> Tensor:
        """Features in pieces through ``pool`` and projector in their order, marked where asked for."""
        dtype = next(self.projector.parameters(), torch.empty(0)).dtype  # halves are pooled as halves
        if self.order == "pool-first":
            tokens = self.projector(pool(pieces).to(dtype))
        else:
            tokens = pool(self.projector(piece.to(dtype)) for piece in pieces)
        if not self.time_markers:
            return cast(Tensor, tokens)
        # By the rank of a frame: the last gets the last mark, though it stands one frame before the end.
        marks = TimeGrid(len(self.time_token_ids)).encode(list(range(num_frames)), max(num_frames - 1, 1))
        ids = torch.tensor([self.time_token_ids[k] for k in marks], device=tokens.device)
        fast, slow = tokens.split([num_frames, tokens.shape[1] - num_frames], dim=1)
        return torch.cat([fast + self.lm.get_input_embeddings()(ids), slow], dim=1)

    @torch.no_grad()
    def encode_video(
        self, features: Tensor | None = None, prefix: str | Sequence[int] = (), *, pixels: Tensor | None = None
    ) -> EncodedVideo:
        r"""A video that many questions are about, to be passed in place of its features ``[t p e]`` or ``[t h w e]``.

        Pooled and projected once; and where the model has a key-value cache, ``prefix``, ids or trusted text such as
        ``"USER: <video>\n"`` with which those prompts begin and which hold the video, is run once, too. Of ``pixels``
        ``[t c h w]``, in place of features, each chunk is pooled before the next is encoded.
        """
        if (features is None) == (pixels is None):
            raise ArgumentError("features, pixels: pass one of the two")
        if pixels is not None:
            stream = partial(self.pooler.stream, num_frames=len(pixels))
            encode = getattr(self.vision, "chunks", lambda frames: self.features(frames.unsqueeze(0)))
            pieces = encode(pixels.to(self.lm.device))
            tokens = self._through(lambda found: torch.cat(list(stream(found))).unsqueeze(0), pieces, len(pixels))
        elif features is not None:
            tokens = self.visual_tokens(features.unsqueeze(0).to(self.lm.device))
        if isinstance(prefix, str):
            prefix = cast(list[int], self.processor([prefix], counts=[tokens.shape[1]])["input_ids"][0].tolist())
        return remember(self, tokens[0], prefix)

    @contextmanager
    def _reading(
        self, ids: Tensor, mask: Any, video_features: Any = None, pixel_values_videos: Any = None, given: Any = ()
    ) -> Iterator[None]:
        """A context in which the LM sees videos, as in `forward`, when called on ``ids`` and with what is ``given``."""
        if pixel_values_videos is not None and len(pixel_values_videos):
            if video_features is not None:
                raise ArgumentError("pixel_values_videos, video_features: pass one of the two, got both")
            video_features = [self.features(clip.unsqueeze(0))[0] for clip in pixel_values_videos]
        features: Videos = () if video_features is None else video_features
        if isinstance(features, Tensor) and features.ndim > 3:
            videos = list(self.visual_tokens(features.to(ids.device)))
        else:  # BatchEncoding.to leaves a list of tensors where it was
            found = (each.tokens if isinstance(each, EncodedVideo) else each[None] for each in features)
            there = (video.to(ids.device) for video in found)  # one by one, pooled ones have the bits of frames
            videos = [video if video.ndim == 2 else self.visual_tokens(video)[0] for video in there]
        counts, sizes = (ids == self.video_token_id).sum(1).tolist(), [len(video) for video in videos]
        if sum(counts) != sum(sizes) or not {*accumulate(counts)} <= {0, *accumulate(sizes)}:
            held = f"placeholders by row are {counts}, visual tokens by video are {sizes}"
            raise PromptError(f"input_ids, video_features: {held}; expected whole videos in each row, and all of them")
        rows = torch.cat(videos).split(counts) if videos else ()
        with splice(self.lm, rows, self.video_token_id), placed(self, ids, mask, features, given):
            yield

    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, video_features: Videos | None = None,
        pixel_values_videos: Tensor | Sequence[Tensor] | None = None, labels: Tensor | None = None, **lm_kwargs: Any,
    ) -> Any:  # fmt: skip
        """The LM's own forward, with the videos in place.

        Args:
            input_ids: ``[b s]`` with one placeholder per visual token; PromptError is raised where those of a row do
                not fit whole videos, SpliceError where the LM is called in a way in which the videos do not reach it.
            attention_mask: ``[b s]``, as the LM has it.
            video_features: ``[m t p e]`` in the order of the placeholders, a list of ``[t p e]`` where
                videos differ in length or of what ``encode_video`` gave, pooled ones ``[n e]``, or None for text alone.
            pixel_values_videos: What ``vision`` reads instead, ``[m t c h w]``, or a list; with both, ArgumentError.
            labels: ``[b s]``; those at placeholders and padding become -100. The loss is next-token cross entropy in
                float32, which not every LM computes, and the LM's auxiliary loss.
            **lm_kwargs: The LM's, and Trainer's ``num_items_in_batch``: it, not the targets' number, divides the loss.
        """
        num_items = lm_kwargs.pop("num_items_in_batch", None)
        with self._reading(input_ids, attention_mask, video_features, pixel_values_videos, lm_kwargs):
            outputs = self.lm(input_ids=input_ids, attention_mask=attention_mask, **lm_kwargs)
        if labels is None:
            return outputs
        labels = labels.masked_fill(input_ids == self.video_token_id, -100)
        if attention_mask is not None and attention_mask.ndim == 2:
            labels = labels.masked_fill(attention_mask == 0, -100)
        loss = SoftTimeLoss((), sigma=0)(outputs, labels.to(outputs.logits.device), num_items)
        if getattr(outputs, "aux_loss", None) is not None:
            owners, names = (self.lm, self.lm.config.get_text_config()), ("router_aux_loss_coef", "aux_loss_coef")
            weight = next(float(getattr(owner, name)) for owner in owners for name in names if hasattr(owner, name))
            loss = loss + weight * outputs.aux_loss.to(loss.device)  # as the LM weighs the load of its experts
        return type(outputs)(**{**outputs, "loss": loss})

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, video_features: Videos | None = None,
        pixel_values_videos: Tensor | Sequence[Tensor] | None = None, **generate_kwargs: Any,
    ) -> Any:  # fmt: skip
        """The LM's own ``generate``, which is handed ``generate_kwargs``: prompt and new ids, ``[b s+new]``.

        ``input_ids`` and ``attention_mask`` ``[b s]`` are padded on the left, the videos as in ``forward``.
        ArgumentError is raised where a repetition penalty is asked for, and the LM has no score for the placeholder.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        config = generate_kwargs.get("generation_config") or self.lm.generation_config
        penalty, placeholder = generate_kwargs.get("repetition_penalty", config.repetition_penalty), self.video_token_id
        if penalty not in (None, 1.0):  # it looks at the ids of a prefix, too, which are not there where its cache is
            if placeholder >= len(tables(self.lm)[0]):
                what = f"repetition_penalty: {penalty} scales every prompt id's score, but id {placeholder} has none"
                raise ArgumentError(f"{what}; call timetok.embeddings.resize(lm, [{placeholder}]) first")
        elif isinstance(video_features, Sequence) and len(video_features) == len(input_ids):
            first = video_features[0]
            if isinstance(first, EncodedVideo) and len(first.prefix_ids) and all(v is first for v in video_features):
                return generate_about(self, first, input_ids, mask, generate_kwargs)
        # no answer holds the placeholder, for which no video would be left
        suppressed = [*(generate_kwargs.get("suppress_tokens", config.suppress_tokens) or ()), placeholder]
        options = generate_kwargs | {"attention_mask": mask, "suppress_tokens": suppressed}
        with self._reading(input_ids, mask, video_features, pixel_values_videos, options):
            return self.lm.generate(input_ids=input_ids, **options)

    @torch.no_grad()
    def prompt_embeds(self, input_ids: Tensor, *, attention_mask: Tensor | None = None, **videos: Any) -> list[Tensor]:
        """What servers of the LM alone, such as vLLM, take in place of prompts: ``[s d]`` for each row, unpadded.

        Arguments as in ``forward``; LMs that need ids elsewhere, too, as per-layer embeddings do, are not served so.
        """
        with self._reading(input_ids, None, **videos):
            embeds = self.lm.get_input_embeddings()(input_ids)
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return [row[mask.bool()] for row, mask in zip(embeds, keep, strict=True)]

    def save_pretrained(self, folder: str | os.PathLike[str], *, adapter_only: bool = True) -> None:
        """Write the adapter: projector, learned separators, time rows (safetensors), settings, tokenizer, a card.

        Files take their names only when all are complete, the settings last; a card that is there is kept. The encoder
        of ``vision`` is frozen and not written. ``adapter_only=False`` writes the language model too, into
        ``folder/lm``, or raises ArgumentError where peft has changed its layers; so does True where one lies there.
        """
        if hasattr(self, "peft_config") or (not adapter_only and hasattr(self.lm, "peft_config")):
            raise ArgumentError("adapter: peft has changed it; save the peft model, or merge first (merge_and_unload)")
        if self.processor is None:
            raise ArgumentError("tt: an adapter of TokenIds has no tokenizer to save; make it with a TimeTokenizer")
        path = Path(folder)
        if adapter_only and (path / "lm").exists():
            raise ArgumentError(f"folder: '{path}' holds an earlier language model in lm/; remove it or choose another")
        tensors = self.projector.state_dict(prefix="projector.") | self.pooler.state_dict(prefix="pooler.")
        tensors |= rows_of(self.lm, self.time_token_ids)
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        base, num = self.lm.config.name_or_path or type(self.lm).__name__, len(self.time_token_ids)
        told = {"base_model": base, "lm": base if adapter_only else "FOLDER/lm", "num_time_tokens": num}
        card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path, prefix=".part-") as part:
            self.processor.tt.save_pretrained(part)
            if not adapter_only:
                self.lm.save_pretrained(Path(part, "lm"))
            Path(part, _WEIGHTS).write_bytes(data)  # save_file makes files only the owner can read
            Path(part, _CARD).write_text(card.format(**self._settings, **told, version=__version__), encoding="utf-8")
            write_json(Path(part, _SETTINGS), self._settings)
            files = (file for file in Path(part).rglob("*") if file.is_file())
            for file in sorted(files, key=lambda file: file.name == _SETTINGS):  # the settings last
                target = path / file.relative_to(part)
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.name != _CARD or not target.exists():
                    os.replace(file, target)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, lm: PreTrainedModel | None = None, projector: nn.Module | None = None,
        vision: nn.Module | None = None,
    ) -> Self:  # fmt: skip
        """Read back what ``save_pretrained`` wrote; ModelFolderError where a file is missing or not readable.

        The time rows of ``lm``, which is ``folder/lm`` if None, are overwritten; ArgumentError is raised where it has
        none or does not fit. A ``projector`` is needed where the saved one had a class of its own; ``vision`` as there.
        """
        path = Path(folder)
        if lm is None and not (path / "lm").is_dir():
            raise ModelFolderError(f"folder: {str(path)!r} lacks lm/, a saved language model; pass lm=")
        with raised_as(ModelFolderError, f"folder: {str(path)!r} holds no readable adapter", Exception):
            settings: dict[str, Any] = read_json(path / _SETTINGS, dict, "the settings of an adapter")
            tensors = load_file(path / _WEIGHTS)
            settings["pooler"] = SlowFastPooler(**settings["pooler"])
        if projector is not None:
            settings["projector"] = projector
        lm = lm or AutoModelForCausalLM.from_pretrained(path / "lm")
        adapter = cls(lm, TimeTokenizer.from_pretrained(path), vision=vision, **settings)
        parts = nn.ModuleDict({"projector": adapter.projector, "pooler": adapter.pooler})
        parts.load_state_dict({name: tensor for name, tensor in tensors.items() if name not in ROWS}, assign=True)
        load_rows(lm, adapter.time_token_ids, tensors)
        return adapter
