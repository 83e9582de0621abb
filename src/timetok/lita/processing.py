"""Videos and text → ids → spans. Shapes: b batch, m videos, t frames, c channels, s sequence or side of a frame."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from timetok.adapter.prompts import VIDEO_TOKEN, VideoPrompts, as_prompts, check_typed, video_token_id
from timetok.errors import ArgumentError, PromptError
from timetok.pooling import plan_of
from timetok.timegrid import Span, with_durations
from timetok.tokenizer import TimeTokenizer
from timetok.video import Array, Frames, Part, read_frames, spread
from timetok.vision import FrameTransform

Video = str | PathLike[str] | Part | Frames


class LitaProcessor(ProcessorMixin):
    """Reads videos, resizes frames, expands placeholders, tokenises; parses answers.

    Time tokens and ``<video>`` are added to any Hugging Face tokenizer where missing. ``codec`` writes moments as
    ``"index"`` tokens or ``"seconds"`` of text, ``transform`` are arguments of ``FrameTransform``, ``grid`` patch rows
    and columns of the encoder, ``lita_spacing`` is as in ``TimeTokenizer``, ``system`` the sentences in front of the
    first question, ``chat_template`` is transformers', and the other arguments are as in ``LitaConfig``.
    ``prompts`` takes features in place of videos, ``frame_transform`` frames; a video is ``num_video_tokens`` long.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, num_frames: int = 100, num_time_tokens: int = 100,
        codec: Literal["index", "seconds"] = "index", transform: dict[str, Any] | None = None,
        pooler: dict[str, Any] | None = None, grid: Sequence[int] = (16, 16), lita_spacing: bool = False,
        system: str = "", chat_template: str | None = None,
    ) -> None:  # fmt: skip
        self.lita_spacing, self.system = lita_spacing, system
        self.num_frames, self.num_time_tokens, self.codec = num_frames, num_time_tokens, codec
        self.transform, self.pooler, self.grid = dict(transform or {}), dict(pooler or {}), list(grid)
        video_token_id(tokenizer)  # before the time tokens
        self.tt = TimeTokenizer.wrap(tokenizer, num_time_tokens, codec=codec, lita_spacing=lita_spacing)
        self.prompts = VideoPrompts(self.tt, plan_of(**self.pooler), grid=(grid[0], grid[1]))
        self.num_video_tokens = self.prompts.plan.num_tokens(num_frames, (grid[0], grid[1]))
        self.frame_transform = FrameTransform(**self.transform)
        self.video_token, self.video_token_id = VIDEO_TOKEN, self.prompts.video_token_id
        super().__init__(tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]

    def prompt(self, question: str, *, duration_seconds: float | None = None) -> str:
        """The first user turn in LITA's conversation format, ready for the answer.

        ``duration_seconds`` is told to models that answer in seconds of text, which could not know it, in a sentence of
        ours. PromptError: those are not told, or the question is empty or holds ``<video>`` or another control token.
        Source: LITA's code (Vicuna v1 roles; the placeholder line first).
        """
        check_typed(question, self.tokenizer)
        if self.codec == "seconds":
            if duration_seconds is None:
                raise PromptError("duration_seconds: needed where times are written as text")
            question = f"The video lasts {duration_seconds:.1f} seconds. {question}"
        return f"{self.system} USER: {VIDEO_TOKEN}\n{question} ASSISTANT:".lstrip()

    def conversation(self, asked: Sequence[tuple[str, str]], duration_seconds: float | None) -> list[tuple[str, str]]:
        """Questions and answers about one video, trusted text → the ``turns`` of a row for ``VideoPrompts.collate``."""
        first, *later = asked
        begin = self.prompt(first[0], duration_seconds=duration_seconds), f" {first[1]}"
        return [begin, *((f"USER: {question} ASSISTANT:", f" {answer}") for question, answer in later)]

    def read(self, video: Video, *, fps: float | None = None) -> Frames:
        """``num_frames`` frames of a file or of ``Frames``, spread evenly, both ends included, repeated if too few.

        Those of a file are scaled as they are decoded, uncropped, or not if that squashes; ``fps`` as in `read_frames`.
        """
        if not isinstance(video, Frames):
            scale = self.frame_transform.scale if self.frame_transform.crop == "center" else None
            return read_frames(video, self.num_frames, fps=fps, size=scale)
        picked = spread(len(video), self.num_frames)
        return Frames(video.data[picked], video.times_seconds[picked], video.duration_seconds)

    def __call__(
        self, text: str | Sequence[str], videos: Sequence[Video | Array] = (), *,
        durations: Sequence[float] | None = None, trusted: bool = True, return_tensors: Literal["pt"] = "pt",
    ) -> BatchFeature:  # fmt: skip
        """Videos and text → ``input_ids`` and ``attention_mask`` ``[b s]``; ``pixel_values_videos`` ``[m t c s s]``.

        Prompts and ``trusted`` are as in ``VideoPrompts``, with at most one ``<video>`` in each. Videos are paths,
        ``Frames``, or bare uint8 arrays ``[t c h w]`` (torch or numpy) of frames spread evenly over the video, of which
        ``num_frames`` are picked; else VideoError or ArgumentError is raised. ``durations`` are seconds, one a video.
        Files and ``Frames`` know their own; without it ``<12.3>`` in a prompt about bare arrays stays text.
        """
        if return_tensors != "pt":
            raise ArgumentError(f"return_tensors: expected 'pt', got {return_tensors!r}")
        prompts = as_prompts(text, len(videos))
        if twice := [row for row, prompt in enumerate(prompts) if prompt.count(VIDEO_TOKEN) > 1]:
            raise PromptError(f"text: rows {twice} hold {VIDEO_TOKEN} more than once, expected one video a question")
        clips = [self._pixels(*pair) for pair in with_durations(videos, durations)]
        seconds = iter([duration for _, duration in clips])
        by_row = [next(seconds) if VIDEO_TOKEN in prompt else None for prompt in prompts]
        pixels = [each for each, _ in clips]
        return BatchFeature(dict(self.prompts(prompts, pixels=pixels, durations=by_row, trusted=trusted)))

    def _pixels(self, video: Video | Array, duration: float | None) -> tuple[torch.Tensor, float | None]:
        """What the encoder reads, ``[t c s s]``, and the duration, the video's own if None; bare arrays know none."""
        if not isinstance(video, torch.Tensor | np.ndarray):
            frames = self.read(video)
            return self.frame_transform(frames.data), frames.duration_seconds if duration is None else duration
        if 0 in video.shape or video.ndim != 4:
            raise ArgumentError(f"videos: expected uint8 [t 3 h w], none of them 0, got {list(video.shape)}")
        return self.frame_transform(torch.as_tensor(video[spread(len(video), self.num_frames)])), duration

    def post_process_spans(self, ids: Any, durations: Sequence[float], *, prompt_length: int = 0) -> list[list[Span]]:
        """Generated ids ``[b s]`` → the spans of each row behind its prompt; ``durations`` in seconds are one a row."""
        return [self.tt.spans(row, each, prompt_length=prompt_length) for row, each in with_durations(ids, durations)]
