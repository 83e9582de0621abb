"""What a LITA is made of, as a Hugging Face configuration."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


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
