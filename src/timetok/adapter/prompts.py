"""Prompts with placeholders → ids. Tokenizer and token plan, no weights. Letters of shapes as in `timetok.adapter`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedTokenizerBase

from timetok.adapter.hooks import EncodedVideo
from timetok.errors import ArgumentError, PromptError
from timetok.pooling import PoolingPlan, as_grid
from timetok.timegrid import with_durations
from timetok.tokenizer import TimeTokenizer

VIDEO_TOKEN = "<video>"
FEATURES, PIXELS = "video_features", "pixel_values_videos"


class TokenIds(NamedTuple):
    """Ids of a tokenizer that is not at hand: of the token that stands for a visual one, and of time, in its order."""

    video: int
    time: Sequence[int] = ()


class VideoPrompts:
    """Prompts and features, or pixels that become a patch ``grid`` → a batch, as tokenizer and plan say; picklable."""

    def __init__(self, tt: TimeTokenizer, plan: PoolingPlan, *, grid: tuple[int, int] | None = None) -> None:
        self.tt, self.plan, self.grid = tt, plan, grid
        self.video_token_id = video_token_id(tt.tokenizer)

    def __call__(
        self, text: Sequence[str] | str, *, videos: Sequence[Tensor | EncodedVideo] = (), pixels: Sequence[Tensor] = (),
        counts: Sequence[int] | None = None, durations: Sequence[float | None] | None = None, trusted: bool = True,
    ) -> BatchEncoding:  # fmt: skip
        """Expand each ``<video>`` to one placeholder per visual token, tokenise, pad on the left.

        ``text`` holds one ``<video>`` a video, typed ones included, else PromptError is raised. ``videos`` are features
        ``[t p e]`` or ``[t h w e]``, pooled ones ``[n e]``, or what ``encode_video`` gave. In their place ``pixels``
        are what the encoder reads, each ``[t c h w]`` (ArgumentError where there is none), or ``counts`` the visual
        tokens of each, whose features come later. ``durations`` are seconds, one for all or one a prompt (else
        TimeRangeError), for ``<12.3>`` in prompts. Unless ``trusted``, a literal ``<t12>`` stays plain characters.

        The batch has ``input_ids`` and ``attention_mask`` ``[b s]``, and ``video_features`` ``[m t p e]`` or
        ``pixel_values_videos`` ``[m t c h w]``, or a list of them.
        """
        counts = [*map(self._count, videos), *map(self._count_pixels, pixels)] if counts is None else counts
        prompts, remaining = as_prompts(text, len(counts)), iter(counts)
        rows = with_durations(prompts, durations)
        ids = [self.tt(_expand(prompt, remaining), each, trusted=trusted)["input_ids"] for prompt, each in rows]
        return BatchEncoding(self._padded(ids, "left") | _stacked(FEATURES, videos) | _stacked(PIXELS, pixels))

    def collator(self) -> Callable[[Sequence[Mapping[str, Any]]], BatchEncoding]:
        """`collate`, picklable, for ``Trainer(data_collator=…)``; ArgumentError where no token could end an answer."""
        if self.tt.tokenizer.eos_token_id is None:
            raise ArgumentError("tokenizer: training needs an eos_token that ends an answer, got None; set one")
        return self.collate

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> BatchEncoding:
        """Rows of a data set → a batch to train on, padded on the right; labels are -100 outside answers.

        A row has ``prompt`` and ``answer``, trusted text, or ``turns``, a list of such pairs (else ArgumentError);
        ``video_features``, as ``videos`` of a call or a list of such, one a ``<video>`` of its prompts (else
        PromptError), or, in all rows, ``pixel_values_videos``, ``[t c h w]`` or a list; and ``duration_seconds`` where
        text names seconds as ``<12.3>``. The batch has ``labels`` ``[b s]`` beside what a call gives.
        """
        ids, labels = zip(*(self._encode_row(index, row) for index, row in enumerate(rows)), strict=True)
        batch = self._padded(ids, "right")
        batch["labels"] = pad_sequence([torch.tensor(row) for row in labels], batch_first=True, padding_value=-100)
        for name in (FEATURES, PIXELS):
            batch |= _stacked(name, [video for row in rows for video in _listed(row.get(name))])
        return BatchEncoding(batch)

    def _encode_row(self, index: int, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """Ids and labels; a prompt is tokenised alone, so that it has the ids it has when the answer is asked for."""
        missing = [name for name in ("prompt", "answer") if name not in row]
        if missing and not row.get("turns"):
            raise ArgumentError(f"rows: row {index} lacks {missing}, it has {list(row)}")
        turns = row.get("turns") or [(row["prompt"], row["answer"])]
        counts = [*map(self._count, _listed(row.get(FEATURES))), *map(self._count_pixels, _listed(row.get(PIXELS)))]
        held, wanted = [sum(turn[side].count(VIDEO_TOKEN) for turn in turns) for side in (0, 1)], [len(counts), 0]
        if held != wanted:
            raise PromptError(f"rows: prompt and answer of row {index} hold {held} {VIDEO_TOKEN}, expected {wanted}")
        remaining, duration = iter(counts), row.get("duration_seconds")
        ids, labels = list[int](), list[int]()
        for prompt, answer in turns:
            asked = self.tt(_expand(prompt, remaining), duration, add_special_tokens=not ids)["input_ids"]
            reply = [*self.tt(answer, duration, add_special_tokens=False)["input_ids"], self.tt.tokenizer.eos_token_id]
            ids += [*asked, *reply]
            labels += [-100] * len(asked) + reply
        return ids, labels

    def _padded(self, rows: Sequence[Sequence[int]], side: str) -> dict[str, Any]:
        tokenizer = self.tt.tokenizer
        value = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        ids = [torch.tensor(row, dtype=torch.long) for row in rows]
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True, padding_side=side)
        padded = pad_sequence(ids, batch_first=True, padding_value=value, padding_side=side)
        return {"input_ids": padded, "attention_mask": mask}

    def _count(self, video: Tensor | EncodedVideo) -> int:
        if isinstance(video, EncodedVideo) or video.ndim == 2:
            return len(video.tokens if isinstance(video, EncodedVideo) else video)
        _, num_frames, height, width, _ = as_grid(video.unsqueeze(0)).shape
        return self.plan.num_tokens(num_frames, (height, width))

    def _count_pixels(self, pixels: Tensor) -> int:
        if self.grid is None or pixels.ndim != 4:
            what = f"got {list(pixels.shape)}" if self.grid else "and an adapter with vision=, got one without"
            raise ArgumentError(f"pixels: expected [t c h w] for each video, {what}")
        return self.plan.num_tokens(len(pixels), self.grid)


def as_prompts(text: Sequence[str] | str, num_videos: int) -> list[str]:
    """Prompts as a list; PromptError where there are none, or they do not hold ``num_videos`` ``<video>`` in all."""
    prompts = [text] if isinstance(text, str) else list(text)
    asked = [prompt.count(VIDEO_TOKEN) for prompt in prompts]
    if not asked or sum(asked) != num_videos:
        raise PromptError(f"text: expected {num_videos} {VIDEO_TOKEN}, one a video; by row there are {asked}")
    return prompts


def check_typed(question: str, tokenizer: PreTrainedTokenizerBase, placeholders: Sequence[str] = ()) -> None:
    """Refuse, by a PromptError, a question that is empty, or would not stay characters: it holds control tokens."""
    if not question.strip():
        raise PromptError("question: expected a question about the video, got an empty text")
    if question.encode(errors="ignore").decode() != question:
        raise PromptError(f"question: expected text, got bytes that are not UTF-8 in {question!r}")
    # Special tokens that the tokenizer finds; its stand-in for unknown characters is harmless.
    found = set(tokenizer(question, add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}
    control = {token.content for key, token in tokenizer.added_tokens_decoder.items() if key in found and token.special}
    if control := control.union(name for name in placeholders if name in question):
        raise PromptError(f"question: holds {', '.join(sorted(control))}, which would not stay characters; rephrase it")


def _listed(found: Tensor | EncodedVideo | Sequence[Tensor | EncodedVideo] | None) -> list[Any]:
    return [] if found is None else [found] if isinstance(found, Tensor | EncodedVideo) else list(found)


def _expand(prompt: str, counts: Iterator[int]) -> str:
    return re.sub(VIDEO_TOKEN, lambda found: found[0] * next(counts), prompt)


def video_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the placeholder, which is added as a special token where the tokenizer lacks it."""
    tokenizer.add_special_tokens({"extra_special_tokens": [VIDEO_TOKEN]}, replace_extra_special_tokens=False)
    return int(tokenizer.get_vocab()[VIDEO_TOKEN])


def _stacked(name: str, videos: Sequence[Tensor | EncodedVideo]) -> dict[str, Any]:
    tensors = [video for video in videos if isinstance(video, Tensor)]
    alike = len(tensors) == len(videos) and len({video.shape for video in tensors}) == 1
    return {name: torch.stack(tensors) if alike else list(videos)} if len(videos) else {}
