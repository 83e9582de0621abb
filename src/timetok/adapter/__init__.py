"""The pieces on a causal LM, which stays itself: nothing is subclassed; masks, caches and generation are its own."""

from timetok.adapter.hooks import EncodedVideo, remember, splice
from timetok.adapter.prompts import VIDEO_TOKEN, TokenIds, VideoPrompts, as_prompts, check_typed, video_token_id
from timetok.adapter.video_adapter import VideoAdapter

__all__ = [
    "VIDEO_TOKEN", "EncodedVideo", "TokenIds", "VideoAdapter", "VideoPrompts", "as_prompts", "check_typed", "remember",
    "splice", "video_token_id",
]  # fmt: skip
