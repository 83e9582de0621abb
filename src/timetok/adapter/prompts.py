"""Prompts with placeholders → ids. Tokenizer and token plan, no weights.

Shapes: b batch, m videos, t frames, p patches, h w patch grid, e vision width, s sequence.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from timetok.errors import ArgumentError, PromptError
from timetok.pooling import SlowFastPlan, as_grid
from timetok.tokenizer import TimeTokenizer

VIDEO_TOKEN = "<video>"


class VideoPrompts:
    """Prompts and features → a batch: tokenizer and token plan, no weights, picklable.

    Args:
        tt: The time tokenizer.
        plan: The pooler's plan.

    Attributes:
        video_token_id: Id of the placeholder.

    Raises:
        ArgumentError: The tokenizer cannot hold the ``<video>`` placeholder.
    """

    def __init__(self, tt: TimeTokenizer, plan: SlowFastPlan) -> None:
        self.tt, self.plan = tt, plan
        self.video_token_id = video_token_id(tt.tokenizer)

    def __call__(
        self,
        text: Sequence[str] | str,
        *,
        videos: Sequence[Tensor] = (),
        durations: Sequence[float] | None = None,
        trusted: bool = True,
    ) -> BatchEncoding:
        """Expand each ``<video>`` to one placeholder per visual token, tokenise, pad on the left.

        Args:
            text: Prompts; the k-th ``<video>`` of the batch stands for ``videos[k]``. A literal ``<video>`` in
                what a user typed counts too, so there it is an error.
            videos: Features, each ``[t p e]`` or ``[t h w e]``.
            durations: Seconds, one a prompt, where prompts name seconds as ``<12.3>``.
            trusted: False keeps a literal ``<t12>`` as plain characters.

        Returns:
            ``input_ids`` and ``attention_mask`` ``[b s]``, ``video_features`` ``[m t p e]`` or a list.

        Raises:
            PromptError: Numbers of placeholders and videos differ, a prompt is empty, or there is none.
            ArgumentError: Durations and prompts differ in number.
        """
        prompts, videos = ([text] if isinstance(text, str) else list(text)), list(videos)
        seconds = [None] * len(prompts) if durations is None else list(durations)
        if len(seconds) != len(prompts):
            raise ArgumentError(f"durations: expected one a prompt, got {len(seconds)} for {len(prompts)} prompts")
        asked = [prompt.count(VIDEO_TOKEN) for prompt in prompts]
        if sum(asked) != len(videos):
            raise PromptError(f"text: expected {len(videos)} {VIDEO_TOKEN}, one a video; by row there are {asked}")
        empty = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
        if empty or not prompts:
            raise PromptError(f"text: expected prompts, rows {empty} of {len(prompts)} are empty")
        rest = iter(videos)
        rows = [
            self.encode(prompt, rest, duration, trusted=trusted)
            for prompt, duration in zip(prompts, seconds, strict=True)
        ]
        batch = pad_left(rows, self.tt.tokenizer)
        if videos:
            batch["video_features"] = _stacked(videos)
        return batch

    def encode(
        self, prompt: str, videos: Iterator[Tensor], duration: float | None = None, *, trusted: bool = True
    ) -> list[int]:
        """Ids of one prompt, which takes a video from ``videos`` for each ``<video>``.

        Args:
            prompt: With a ``<video>`` for each video that is left to it.
            videos: Features, each ``[t p e]`` or ``[t h w e]``.
            duration: Seconds, where the prompt names seconds as ``<12.3>``.
            trusted: False keeps a literal ``<t12>`` as plain characters.
        """
        first, *others = prompt.split(VIDEO_TOKEN)
        expanded = first + "".join(VIDEO_TOKEN * num_visual_tokens(next(videos), self.plan) + part for part in others)
        return list(self.tt(expanded, duration, trusted=trusted)["input_ids"])

    def collator(self) -> "VideoCollator":
        """Rows of a data set → batches to train on, for ``Trainer(data_collator=…)``."""
        return VideoCollator(self)


@dataclass(frozen=True)
class VideoCollator:
    """Prompts and answers → a batch to train on, padded on the right; only answers are learned. Picklable.

    Each prompt is tokenised alone, so that it has the ids it will have when the answer is asked for. The answer
    follows as it stands, leading space included, and then the end-of-sequence token.

    Attributes:
        prompts: Tokenizer and token plan.

    Raises:
        ArgumentError: The tokenizer has no end-of-sequence token, so an answer could not end.
    """

    prompts: VideoPrompts

    def __post_init__(self) -> None:
        if self.prompts.tt.tokenizer.eos_token_id is None:
            raise ArgumentError("tokenizer: training needs an eos_token that ends an answer, got None; set one")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> BatchEncoding:
        """Collate.

        Args:
            rows: Each with ``prompt`` and ``answer``, trusted text; ``video_features`` ``[t p e]`` or ``[t h w e]``
                where the prompt holds ``<video>``; and ``duration_seconds`` where text names seconds as ``<12.3>``.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels`` ``[b s]``, ``video_features`` ``[m t p e]`` or a list;
            labels are -100 outside answers.

        Raises:
            ArgumentError: A row lacks its prompt or its answer, or there is no row.
            PromptError: A row's ``<video>`` and its video do not match.
        """
        if not rows:
            raise ArgumentError("rows: expected at least one, got none")
        encoded = [self._encode(index, row) for index, row in enumerate(rows)]
        ids, labels = ([pair[k] for pair in encoded] for k in (0, 1))
        batch = _pad(ids, self.prompts.tt.tokenizer, left=False)
        longest = batch["input_ids"].shape[1]
        batch["labels"] = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
        videos = [row["video_features"] for row in rows if row.get("video_features") is not None]
        if videos:
            batch["video_features"] = _stacked(videos)
        return batch

    def _encode(self, index: int, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """Ids and labels of one row."""
        missing = [name for name in ("prompt", "answer") if name not in row]
        if missing:
            raise ArgumentError(f"rows: row {index} lacks {missing}, it has {list(row)}")
        videos = [row["video_features"]] if row.get("video_features") is not None else []
        asked = [row[name].count(VIDEO_TOKEN) for name in ("prompt", "answer")]
        if asked != [len(videos), 0]:
            raise PromptError(
                f"rows: prompt and answer of row {index} hold {asked} {VIDEO_TOKEN}, expected {[len(videos), 0]}"
            )
        tt, duration = self.prompts.tt, row.get("duration_seconds")
        prompt = self.prompts.encode(row["prompt"], iter(videos), duration)
        answer = [*tt(row["answer"], duration, add_special_tokens=False)["input_ids"], tt.tokenizer.eos_token_id]
        return prompt + answer, [-100] * len(prompt) + answer


def num_visual_tokens(features: Tensor, plan: SlowFastPlan) -> int:
    """Visual tokens of one video's features, ``[t p e]`` or ``[t h w e]``."""
    _, num_frames, height, width, _ = as_grid(features.unsqueeze(0)).shape
    return len(plan.token_frames(num_frames, (height, width)))


def video_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the placeholder, which is added as a special token where the tokenizer lacks it.

    Raises:
        ArgumentError: The tokenizer takes no new tokens.
    """
    try:
        tokenizer.add_special_tokens({"extra_special_tokens": [VIDEO_TOKEN]}, replace_extra_special_tokens=False)
    except NotImplementedError as error:
        raise ArgumentError(
            f"tokenizer: {type(tokenizer).__name__} takes no new tokens, so it cannot hold {VIDEO_TOKEN}; "
            "load the same files with another class"
        ) from error
    return int(tokenizer.get_vocab()[VIDEO_TOKEN])


def pad_left(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> BatchEncoding:
    """Ids of different lengths → ``input_ids`` and ``attention_mask`` ``[b s]``, padded on the left."""
    return _pad(rows, tokenizer, left=True)


def _pad(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, *, left: bool) -> BatchEncoding:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    longest = max(map(len, rows))

    def padded(row: Sequence[int], value: int) -> list[int]:
        filling = [value] * (longest - len(row))
        return [*filling, *row] if left else [*row, *filling]

    ids = [padded(row, pad) for row in rows]
    mask = [padded([1] * len(row), 0) for row in rows]
    return BatchEncoding({"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)})


def _stacked(videos: list[Tensor]) -> Tensor | list[Tensor]:
    """One tensor where the videos are alike, else the list."""
    return torch.stack(videos) if len({video.shape for video in videos}) == 1 else videos
