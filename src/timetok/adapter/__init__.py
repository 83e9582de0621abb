"""The pieces on a causal LM: pooled frames, projected, put where the prompt has placeholders.

The LM stays itself: a hook on its *current* input embedding swaps the rows at placeholder ids for visual
tokens while a call lasts. Nothing is subclassed, and masks, caches and generation are the LM's own.
"""

from timetok.adapter.encoded import EncodedVideo, remember
from timetok.adapter.hooks import splice
from timetok.adapter.prompts import VIDEO_TOKEN, TokenIds, VideoPrompts, as_prompts, check_typed, video_token_id
from timetok.adapter.video_adapter import VideoAdapter

__all__ = [
    "VIDEO_TOKEN", "EncodedVideo", "TokenIds", "VideoAdapter", "VideoPrompts", "as_prompts", "check_typed", "remember",
    "splice", "video_token_id",
]  # fmt: skip
