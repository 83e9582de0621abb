"""LITA in transformers: its settings; a frozen frame encoder and a `VideoAdapter`, whose letters of shapes are used."""

from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel

from timetok.adapter import TokenIds, VideoAdapter
from timetok.pooling import SlowFastPooler
from timetok.vision import FrameEncoder


class LitaConfig(PreTrainedConfig):
    """Configuration of ``LitaForConditionalGeneration``.

    ``text_config`` is the causal LM's, a dict with ``model_type`` or a config object, ``vision`` arguments of
    ``FrameEncoder``, ``pooler`` of ``SlowFastPooler``, ``num_frames`` are read from each video, ``num_time_tokens`` is
    T, ``time_token_ids`` are none where moments are text, and ``tie_word_embeddings`` is always that of
    ``text_config``, whatever is passed here. The others are as in `VideoAdapter`.

    Source: arXiv 2403.19046; keys ``num_time_tokens``, ``time_token_ids`` and ``num_frames`` as in its code.

    >>> LitaConfig(text_config={"model_type": "qwen2", "hidden_size": 64}).text_config.hidden_size
    64
    """

    model_type = "lita"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012  # hands dtype and attn_implementation on to the LM

    text_config: Any = None
    vision: Any = None  # a dict once built, as is the next one
    pooler: Any = None
    projector: Any = "linear"
    order: Any = "pool-first"
    num_frames: int = 100
    num_time_tokens: int = 100
    time_token_ids: Any = None
    video_token_id: int = -1
    time_markers: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, PreTrainedConfig):
            text = dict(self.text_config or {})
            self.text_config = AutoConfig.for_model(text.pop("model_type", "llama"), **text)
        self.vision = dict(self.vision or {"name": "vit_large_patch14_clip_quickgelu_224", "layer": -2})
        self.pooler = dict(self.pooler or {})
        self.time_token_ids = list(self.time_token_ids or [])
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]


class LitaForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """LITA (arXiv 2403.19046): frames and a question → text with time tokens; random until ``from_pretrained``."""

    config_class = LitaConfig
    base_model_prefix = "model"
    input_modalities = ("video", "text")  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True

    def __init__(self, config: LitaConfig) -> None:
        super().__init__(config)
        vision = FrameEncoder(**{**config.vision, "pretrained": False})  # weights come from the folder alone
        lm = AutoModelForCausalLM.from_config(config.text_config)
        self.model = _joined(config, lm, vision)
        # transformers asks the outer model about the LM inside it, and looks among direct children only
        asked = "_no_split_modules", "_skip_keys", "_keep_in_fp32_modules", "_keys_to_ignore_on_load"
        for name in (name for name in dir(lm) if name.startswith(asked)):
            setattr(self, name, getattr(lm, name))
        self._tied_weights_keys = {f"model.lm.{k}": f"model.lm.{v}" for k, v in lm.all_tied_weights_keys.items()}
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, config: LitaConfig, lm: PreTrainedModel, vision: FrameEncoder) -> Self:
        """A model made of a language model and an encoder that are there already; its projector alone is random."""
        with torch.device("meta"):
            model = cls(config)
        model.model = _joined(config, lm, vision.to(lm.dtype))  # .to() of the whole would round the LM's RoPE
        return model

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        # timm's name for what no file holds: after loading, it must be computed again
        getattr(module, "init_non_persistent_buffers", lambda: None)()

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return cast(nn.Module, self.model.lm.get_output_embeddings())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, pixel_values_videos: Tensor | None = None,
        video_features: Tensor | None = None, labels: Tensor | None = None, **lm_kwargs: Any,
    ) -> Any:  # fmt: skip
        """The LM's, with the videos in place, pixels ``[m t c h w]`` or features ``[m t p e]``: see `VideoAdapter`."""
        videos: dict[str, Any] = {"pixel_values_videos": pixel_values_videos, "video_features": video_features}
        return self.model(input_ids, attention_mask=attention_mask, labels=labels, **videos, **lm_kwargs)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, **generate_kwargs: Any) -> Any:  # type: ignore[override]
        """Prompt and new ids; videos and mask as in ``forward``, the rest as in transformers' ``generate``."""
        self.model.lm.generation_config = self.generation_config  # from_pretrained puts it on the outer model only
        return self.model.generate(input_ids, **generate_kwargs)


def _joined(config: LitaConfig, lm: PreTrainedModel, vision: FrameEncoder) -> VideoAdapter:
    ids, pooler = TokenIds(config.video_token_id, config.time_token_ids), SlowFastPooler(**config.pooler)
    options: dict[str, Any] = {name: getattr(config, name) for name in ("projector", "order", "time_markers")}
    return VideoAdapter(lm, ids, vision_dim=vision.width, pooler=pooler, vision=vision, **options)
