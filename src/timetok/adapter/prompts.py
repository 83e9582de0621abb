"""Prompts with placeholders → ids. Tokenizer and token plan, no weights.

Shapes: b batch, m videos, t frames, p patches, h w patch grid, e vision width, s sequence.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedTokenizerBase

from timetok.adapter.encoded import EncodedVideo
from timetok.errors import ArgumentError, PromptError
from timetok.pooling import PoolingPlan, as_grid
from timetok.tokenizer import TimeTokenizer

VIDEO_TOKEN = "<video>"


class VideoPrompts:
    """Prompts and features → a batch: time tokenizer and the pooler's plan, no weights, picklable.

    ``video_token_id`` is the id of the placeholder; ArgumentError is raised where the tokenizer cannot hold it.
    """

    def __init__(self, tt: TimeTokenizer, plan: PoolingPlan) -> None:
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

        The batch has ``input_ids`` and ``attention_mask`` ``[b s]``, ``video_features`` ``[m t p e]`` or a list.

        Args:
            text: Prompts, not empty; the k-th ``<video>`` of the batch stands for ``videos[k]``, else PromptError is
                raised. A literal ``<video>`` in what a user typed counts too, so there it is an error.
            videos: Features, each ``[t p e]`` or ``[t h w e]``.
            durations: Seconds, one a prompt (else ArgumentError), where prompts name seconds as ``<12.3>``.
            trusted: False keeps a literal ``<t12>`` as plain characters.
        """
        prompts, videos = ([text] if isinstance(text, str) else list(text)), list(videos)
        asked = [prompt.count(VIDEO_TOKEN) for prompt in prompts]
        if sum(asked) != len(videos):
            raise PromptError(f"text: expected {len(videos)} {VIDEO_TOKEN}, one a video; by row there are {asked}")
        rows = self.encode(prompts, _counts(videos, self.plan), durations, trusted=trusted)
        batch = pad_left(rows, self.tt.tokenizer)
        batch.update(_stacked(videos))
        return batch

    def encode(
        self,
        prompts: Sequence[str],
        counts: Iterator[int],
        durations: Sequence[float | None] | None = None,
        *,
        trusted: bool = True,
    ) -> list[list[int]]:
        """As calling, but ids only and not padded; ``counts`` are the visual tokens of each ``<video>``."""
        empty = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
        if empty or not prompts:
            raise PromptError(f"text: expected prompts, rows {empty} of {len(prompts)} are empty; pass not empty ones")
        seconds = [None] * len(prompts) if durations is None else list(durations)
        if len(seconds) != len(prompts):
            raise ArgumentError(f"durations: expected one a prompt, got {len(seconds)} for {len(prompts)} prompts")
        rows = zip(prompts, seconds, strict=True)
        return [list(self.tt(_expand(text, counts), one, trusted=trusted)["input_ids"]) for text, one in rows]

    def with_answer(
        self, prompt: str, answer: str, counts: Iterator[int], duration: float | None, *, begins: bool = True
    ) -> tuple[list[int], list[int]]:
        """Ids and labels of trusted text: learned are the answer, as it stands, and the end-of-sequence token.

        The prompt is tokenised alone, so that it has the ids it will have when the answer is asked for. ``begins``
        is False in the middle of a conversation.
        """
        asked = self.tt(_expand(prompt, counts), duration, add_special_tokens=begins)["input_ids"]
        reply = self.tt(answer, duration, add_special_tokens=False)["input_ids"]
        reply = [*reply, self.tt.tokenizer.eos_token_id]
        return [*asked, *reply], [-100] * len(asked) + reply

    def collator(self) -> Callable[[Sequence[Mapping[str, Any]]], BatchEncoding]:
        """`collate`, picklable, for ``Trainer(data_collator=…)``; ArgumentError where no token could end an answer."""
        if self.tt.tokenizer.eos_token_id is None:
            raise ArgumentError("tokenizer: training needs an eos_token that ends an answer, got None; set one")
        return self.collate

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> BatchEncoding:
        """Rows of a data set → a batch to train on, padded on the right; labels are -100 outside answers.

        A row has ``prompt`` and ``answer``, trusted text; ``video_features`` ``[t p e]`` or ``[t h w e]`` where the
        prompt holds ``<video>``, or a list of such, else PromptError is raised; and ``duration_seconds`` where text
        names seconds as ``<12.3>``. One that lacks something raises ArgumentError. The batch has ``input_ids``,
        ``attention_mask`` and ``labels`` ``[b s]``, and ``video_features`` ``[m t p e]`` or a list.
        """
        if not rows:
            raise ArgumentError("rows: expected at least one, got none")
        batch = pad_answers([self._encode_row(index, row) for index, row in enumerate(rows)], self.tt.tokenizer)
        batch.update(_stacked([video for row in rows for video in _videos(row)]))
        return batch

    def _encode_row(self, index: int, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        if missing := [name for name in ("prompt", "answer") if name not in row]:
            raise ArgumentError(f"rows: row {index} lacks {missing}, it has {list(row)}")
        videos = _videos(row)
        asked, wanted = [row[name].count(VIDEO_TOKEN) for name in ("prompt", "answer")], [len(videos), 0]
        if asked != wanted:
            raise PromptError(f"rows: prompt and answer of row {index} hold {asked} {VIDEO_TOKEN}, expected {wanted}")
        counts = _counts(videos, self.plan)
        return self.with_answer(row["prompt"], row["answer"], counts, row.get("duration_seconds"))


def _videos(row: Mapping[str, Any]) -> list[Tensor]:
    """The features of a row, which has none, one, or a list of them."""
    found = row.get("video_features")
    return [] if found is None else [found] if isinstance(found, Tensor) else list(found)


def _expand(prompt: str, counts: Iterator[int]) -> str:
    first, *others = prompt.split(VIDEO_TOKEN)
    return first + "".join(VIDEO_TOKEN * next(counts) + part for part in others)


def _counts(videos: Sequence[Tensor], plan: PoolingPlan) -> Iterator[int]:
    """Visual tokens of each video's features, ``[t p e]`` or ``[t h w e]``, or of what is encoded already."""
    for video in videos:
        if isinstance(video, EncodedVideo):
            yield len(video.tokens)
            continue
        _, num_frames, height, width, _ = as_grid(video.unsqueeze(0)).shape
        yield plan.num_tokens(num_frames, (height, width))


def video_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the placeholder, which is added as a special token where the tokenizer lacks it, or an ArgumentError."""
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
    return _pad(rows, tokenizer, "left")


def pad_answers(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], tokenizer: PreTrainedTokenizerBase
) -> BatchEncoding:
    """Ids and labels → ``input_ids``, ``attention_mask`` and ``labels`` ``[b s]``, padded on the right."""
    batch = _pad([ids for ids, _ in rows], tokenizer, "right")
    batch["labels"] = pad_sequence([torch.tensor(labels) for _, labels in rows], batch_first=True, padding_value=-100)
    return batch


def _pad(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, side: str) -> BatchEncoding:
    value = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True, padding_side=side)
    padded = pad_sequence(ids, batch_first=True, padding_value=value, padding_side=side)
    return BatchEncoding({"input_ids": padded, "attention_mask": mask})


def _stacked(videos: list[Tensor]) -> dict[str, Tensor | list[Tensor]]:
    """One tensor where the videos are alike, else the list; nothing where there is none."""
    shapes = {None if isinstance(video, EncodedVideo) else video.shape for video in videos}
    alike = len(shapes) == 1 and None not in shapes
    return {"video_features": torch.stack(videos) if alike else videos} if videos else {}
