"""A pooler and a projector in front of a causal LM: tensors and ids only, no tokenizer.

Shapes: b batch, m videos, t frames, c channels, p patches, h w patch grid or pixels, e vision width, d language width,
n visual tokens, s sequence.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, PreTrainedModel, SuppressTokensLogitsProcessor

from timetok.adapter.encoded import EncodedVideo, generate_about, remember
from timetok.adapter.hooks import check, placed, splice
from timetok.attention import FrameMask
from timetok.embeddings import tables
from timetok.errors import ArgumentError, PromptError
from timetok.losses import SoftTimeLoss
from timetok.pooling import SlowFastPooler
from timetok.timegrid import TimeGrid

Order = Literal["pool-first", "project-first"]
ProjectorName = Literal["linear", "mlp2x_gelu"]
Videos = Tensor | Sequence[Tensor | EncodedVideo]
Pixels = Tensor | Sequence[Tensor]

# What trainers, accelerate and peft ask of a model, and the LM answers. Not ``save_pretrained``: it would write half.
_ASKED_OF_THE_LM = {
    "config", "generation_config", "device", "dtype", "get_input_embeddings", "get_output_embeddings",
    "tie_weights", "can_generate", "activation_checkpointing_enable", "activation_checkpointing_disable",
    "gradient_checkpointing_enable", "gradient_checkpointing_disable", "enable_input_require_grads",
    "prepare_inputs_for_generation", "_no_split_modules", "_keys_to_ignore_on_save", "is_loaded_in_4bit",
    "is_loaded_in_8bit", "hf_device_map", "quantization_method",
}  # fmt: skip


class VideoLM(nn.Module):
    """A pooler and a projector in front of a causal LM; knows ids, no tokenizer. Bad settings raise ArgumentError.

    Args:
        lm: Any causal LM of transformers.
        vision_dim: Width e of the features that come in.
        video_token_id: Id that stands for one visual token.
        time_token_ids: Ids of the time tokens, in the order of time; needed for ``time_markers`` only.
        pooler: ``[b t p e]`` → ``[b n e]``; LITA's if None.
        projector: ``"linear"`` (LITA's), ``"mlp2x_gelu"`` (LLaVA-1.5's) or a module e → d.
        order: Pool before or after projecting. The two agree for a linear projector, and pooling
            first is cheaper; an MLP that was trained after the other order needs that order.
        time_markers: Add the embedding of a frame's time token to its fast token. Not LITA's; see Source.
        vision: A frame encoder, ``[m t c h w]`` → ``[m t p e]``, such as `timetok.vision.FrameEncoder`, where pixels
            come in. It is frozen and stays in evaluation mode; a tower that is to be trained gives features instead.
        temporal_rope: a and b of positions ``a * n + b * t`` as `temporal_position_ids` has them, of a model with RoPE.
        attention: What visual tokens see of each other, as `frame_mask` has it; anything but ``"causal"`` needs a model
            without recurrent layers whose attention is ``"eager"`` or ``"sdpa"``.

    Source: arXiv 2403.19046 §3.3; markers: LLaVA-ST (arXiv 2501.08282); the last two: TC-LLaVA (arXiv 2409.03206).
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        *,
        vision_dim: int,
        video_token_id: int,
        time_token_ids: Sequence[int] = (),
        pooler: SlowFastPooler | None = None,
        projector: ProjectorName | nn.Module = "linear",
        order: Order = "pool-first",
        time_markers: bool = False,
        vision: nn.Module | None = None,
        temporal_rope: Sequence[float] | None = None,
        attention: FrameMask = "causal",
    ) -> None:
        super().__init__()
        table = getattr(lm.get_input_embeddings(), "weight", None)
        if not (isinstance(table, Tensor) and table.is_floating_point()):
            kind = table.dtype if isinstance(table, Tensor) else type(lm.get_input_embeddings()).__name__
            raise ArgumentError(f"lm: its input embedding is quantised ({kind}); quantise the other layers only")
        if order not in get_args(Order):
            raise ArgumentError(f"order: expected 'pool-first' or 'project-first', got {order!r}")
        self.lm: Any = lm
        self.pooler = pooler or SlowFastPooler()
        self.projector = _projector(projector, vision_dim, tables(lm)[0].shape[1])
        self.video_token_id, self.order = video_token_id, order
        self.time_token_ids, self.time_markers = tuple(time_token_ids), time_markers
        if time_markers and not (self.pooler.plan.fast and self.time_token_ids):
            raise ArgumentError("time_markers: markers need fast tokens and time_token_ids")
        self.temporal_rope, self.attention = None if temporal_rope is None else tuple(temporal_rope), attention
        check(lm, self.temporal_rope, attention)
        self.vision = vision
        if vision is not None:
            vision.requires_grad_(False).eval()
        module: nn.Module = self
        module.register_state_dict_post_hook(_store_once)
        module.register_load_state_dict_pre_hook(_share_again)

    def __getattr__(self, name: str) -> Any:
        """A module's own, or what the language model answers for the whole."""
        return getattr(self.lm, name) if name in _ASKED_OF_THE_LM else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """A module's own, or what the language model generates with."""
        return setattr(self.lm, name, value) if name == "generation_config" else super().__setattr__(name, value)

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """Names of tied weights in the language model, and of what they are tied to."""
        return {f"lm.{name}": f"lm.{source}" for name, source in (self.lm._tied_weights_keys or {}).items()}

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
        return self._through(nn.Identity() if is_pooled else self.pooler, features, features.shape[1])

    def _tokens(self, video: Tensor | EncodedVideo, device: torch.device) -> Tensor:
        """``[n d]`` of one video, alone, so that pooled features give the bits that their frames would."""
        if isinstance(video, EncodedVideo):
            return video.tokens.to(device)
        return self.visual_tokens(video.to(device).unsqueeze(0))[0]

    def _through(self, pool: Callable[[Any], Tensor], features: Any, num_frames: int) -> Tensor:
        """Features, all or in pieces, through ``pool`` and projector in their order, marked where asked for."""
        dtype = next(self.projector.parameters(), torch.empty(0)).dtype  # halves are pooled as halves
        if self.order == "pool-first":
            tokens = self.projector(pool(features).to(dtype))
        elif isinstance(features, Tensor):
            tokens = pool(self.projector(features.to(dtype)))
        else:
            tokens = pool(self.projector(piece.to(dtype)) for piece in features)
        if not self.time_markers:
            return cast(Tensor, tokens)
        # By the rank of a frame: the last gets the last mark, though it stands one frame before the end.
        marks = TimeGrid(len(self.time_token_ids)).encode(list(range(num_frames)), max(num_frames - 1, 1))
        ids = torch.tensor([self.time_token_ids[k] for k in marks], device=tokens.device)
        fast, slow = tokens.split([num_frames, tokens.shape[1] - num_frames], dim=1)
        return torch.cat([fast + self.lm.get_input_embeddings()(ids), slow], dim=1)

    @torch.no_grad()
    def encode_video(
        self, features: Tensor | None = None, prefix: Sequence[int] = (), *, pixels: Tensor | None = None
    ) -> EncodedVideo:
        """A video that many questions are about, to be passed in place of its features ``[t p e]`` or ``[t h w e]``.

        Pooled and projected once; and where the model has a key-value cache, the ids of ``prefix``, with which those
        prompts begin and which hold the video, are run once, too. Of ``pixels`` ``[t c h w]``, in place of features,
        each chunk is pooled before the next is encoded.
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
        return remember(self, tokens[0], prefix)

    @contextmanager
    def spliced(
        self, input_ids: Tensor, video_features: Videos | None = None, pixel_values_videos: Pixels | None = None
    ) -> Iterator[None]:
        """A context in which the LM, called on ``input_ids``, sees the videos.

        Args:
            input_ids: ``[b s]`` with one placeholder per visual token; PromptError is raised where those of a row do
                not fit whole videos, SpliceError where the LM is called in a way in which the videos do not reach it.
            video_features: ``[m t p e]`` in the order of the placeholders, a list of ``[t p e]`` where
                videos differ in length or of what ``encode_video`` gave, pooled ones ``[n e]``, or None for text alone.
            pixel_values_videos: In place of features what ``vision`` reads, ``[m t c h w]`` or a list of
                ``[t c h w]``; ArgumentError is raised where both are given.
        """
        if pixel_values_videos is not None and len(pixel_values_videos):
            if video_features is not None:
                raise ArgumentError("pixel_values_videos, video_features: pass one of the two, got both")
            video_features = [self.features(pixels.unsqueeze(0))[0] for pixels in pixel_values_videos]
        counts = (input_ids == self.video_token_id).sum(1).tolist()
        if isinstance(video_features, Tensor) and video_features.ndim > 3:
            videos = list(self.visual_tokens(video_features.to(input_ids.device)))
        else:  # BatchEncoding.to leaves a list of tensors where it was
            given = () if video_features is None else video_features
            videos = [self._tokens(video, input_ids.device) for video in given]
        rows = _by_row(videos, counts)
        with splice(self.lm, rows, self.video_token_id) if videos else nullcontext():
            yield

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        video_features: Videos | None = None,
        pixel_values_videos: Pixels | None = None,
        labels: Tensor | None = None,
        **lm_kwargs: Any,
    ) -> Any:
        """The LM's own forward, which is handed ``lm_kwargs``, with the videos in place as in ``spliced``.

        Ids, mask and labels are ``[b s]``; labels at placeholders and padding become -100. The loss is next-token cross
        entropy in float32, which not every LM computes, and the LM's auxiliary loss. Its sum is divided by
        ``num_items_in_batch``, which the HF Trainer passes, or else by the number of targets.
        """
        num_items = lm_kwargs.pop("num_items_in_batch", None)
        if labels is not None:
            lm_kwargs["return_dict"] = True  # the loss takes its place in front
        placement = placed(self, input_ids, attention_mask, video_features, pixel_values_videos, lm_kwargs)
        with self.spliced(input_ids, video_features, pixel_values_videos), placement:
            outputs = self.lm(input_ids=input_ids, attention_mask=attention_mask, **lm_kwargs)
        if labels is None:
            return outputs
        ignored = input_ids == self.video_token_id
        if attention_mask is not None and attention_mask.ndim == 2:
            ignored = ignored | (attention_mask == 0)
        labels = labels.masked_fill(ignored, -100).to(outputs.logits.device)
        loss = SoftTimeLoss((), sigma=0)(outputs, labels, num_items)
        if getattr(outputs, "aux_loss", None) is not None:
            owners, names = (self.lm, self.lm.config.get_text_config()), ("router_aux_loss_coef", "aux_loss_coef")
            weight = next(float(getattr(owner, name)) for owner in owners for name in names if hasattr(owner, name))
            loss = loss + weight * outputs.aux_loss.to(loss.device)  # as the LM weighs the load of its experts
        return type(outputs)(**{**outputs, "loss": loss})

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        video_features: Videos | None = None,
        pixel_values_videos: Pixels | None = None,
        **generate_kwargs: Any,
    ) -> Any:
        """The LM's own ``generate``, which is handed ``generate_kwargs``: prompt and new ids, ``[b s+new]``.

        ``input_ids`` and ``attention_mask`` ``[b s]`` are padded on the left, the videos as in ``spliced``.
        ArgumentError is raised where a repetition penalty is asked for, and the LM has no score for the placeholder.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        first = video_features[0] if video_features is not None and len(video_features) == len(input_ids) else None
        is_known = isinstance(first, EncodedVideo) and len(first.prefix_ids) > 0
        if is_known and all(video is first for video in video_features or ()):
            return generate_about(self, first, input_ids, attention_mask, generate_kwargs)
        config = generate_kwargs.get("generation_config") or self.lm.generation_config
        penalty, placeholder = generate_kwargs.get("repetition_penalty", config.repetition_penalty), self.video_token_id
        if penalty not in (None, 1.0) and placeholder >= len(tables(self.lm)[0]):
            why = f"scales the score of every prompt id, and the placeholder, id {placeholder}, has none"
            remedy = f"call timetok.embeddings.resize(lm, [{placeholder}]) first"
            raise ArgumentError(f"repetition_penalty: {penalty} {why}; {remedy}")
        # no answer holds the placeholder, for which no video would be left
        never = _Never([placeholder], device=str(self.lm.device))
        processors = LogitsProcessorList([never, *(generate_kwargs.get("logits_processor") or ())])
        options = generate_kwargs | {"logits_processor": processors}
        placement = placed(self, input_ids, attention_mask, video_features, pixel_values_videos, options)
        with self.spliced(input_ids, video_features, pixel_values_videos), placement:
            return self.lm.generate(input_ids=input_ids, attention_mask=attention_mask, **options)

    @torch.no_grad()
    def prompt_embeds(self, input_ids: Tensor, *, attention_mask: Tensor | None = None, **videos: Any) -> list[Tensor]:
        """What a server that has the LM alone takes in place of prompts: ``[s d]`` for each row, without its padding.

        Such as vLLM's ``prompt_embeds``. Arguments as in ``spliced``; an LM that needs the ids elsewhere, too, such
        as Gemma's per-layer embeddings, cannot be served so.
        """
        with self.spliced(input_ids, **videos):
            embeds = self.lm.get_input_embeddings()(input_ids)
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return [row[mask.bool()] for row, mask in zip(embeds, keep, strict=True)]


class _Never(SuppressTokensLogitsProcessor):
    """Beside one that ``suppress_tokens`` makes, which a processor of the same class would replace."""


def _shared(model: nn.Module) -> dict[str, str]:
    """Names of parameters that stand under an earlier name already, which is given: a tied head."""
    first = {weight: name for name, weight in model.named_parameters()}
    named = model.named_parameters(remove_duplicate=False)
    return {name: first[weight] for name, weight in named if name != first[weight]}


def _store_once(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Leave tied weights out under their second name, which safetensors, and so Trainer's checkpoints, refuse."""
    for name in _shared(model) if not prefix else ():
        state.pop(name, None)


def _share_again(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, earlier in _shared(model).items():
        if prefix + earlier in state:
            state.setdefault(prefix + name, state[prefix + earlier])


def _projector(kind: ProjectorName | nn.Module, vision_dim: int, lm_dim: int) -> nn.Module:
    if isinstance(kind, nn.Module):
        return kind
    if kind not in get_args(ProjectorName):
        raise ArgumentError(f"projector: expected 'linear', 'mlp2x_gelu' or a module, got {kind!r}")
    first = nn.Linear(vision_dim, lm_dim)
    return first if kind == "linear" else nn.Sequential(first, nn.GELU(), nn.Linear(lm_dim, lm_dim))


def _by_row(videos: Sequence[Tensor], counts: Sequence[int]) -> Sequence[Tensor]:
    """Deal videos out to prompts so that each prompt's placeholders are used up exactly."""
    sizes = [len(video) for video in videos]
    if sum(counts) != sum(sizes) or not {*accumulate(counts)} <= {0, *accumulate(sizes)}:
        held = f"placeholders by row are {list(counts)}, visual tokens by video are {sizes}"
        raise PromptError(f"input_ids, video_features: {held}; expected whole videos in each row, and all of them")
    return torch.cat(list(videos)).split(list(counts)) if videos else ()
