"""What is trained on: LITA's tasks, and conversations about features or pixels drawn from sources at given rates."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from timetok.errors import DataError
from timetok.lita import LitaProcessor
from timetok.recipes.cache import FeatureCache
from timetok.recipes.records import Record
from timetok.timegrid import Span


class Turn(NamedTuple):
    """A question without times, its answer with moments for `TimeTokenizer.to_tokens`, and the spans asked for."""

    question: str
    answer: str
    spans: tuple[Span, ...] = ()


Task: TypeAlias = Callable[[Record, Generator], list[Turn]]
"""The turns of one conversation about a record; none where nothing unambiguous can be asked."""

WORDINGS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("wordings.toml").read_text(encoding="utf-8"))


def event_loc(record: Record, rng: Generator) -> list[Turn]:
    """Event localisation: when does one of the events happen; the answer is its timestamps only."""
    if not (events := _captions(record)):
        return []
    event, span = pick(rng, events)
    when = pick(rng, WORDINGS["when"]).format(event=event.rstrip(".").lower())
    return [Turn(f"{when} {pick(rng, WORDINGS['only_times'])}", times(span), (span,))]


def dvc(record: Record, rng: Generator, *, wordings: Mapping[str, Sequence[str]] = WORDINGS) -> list[Turn]:
    """Dense captioning: every event with its timestamps, in the order of their starts."""
    if not (events := sorted(_captions(record), key=lambda event: event[1].start)):
        return []
    question = f"{pick(rng, wordings['describe'])} {pick(rng, wordings['times_first'])}"
    return [Turn(question, " ".join(f"{times(span)} {text}" for text, span in events), tuple(s for _, s in events))]


def vidqa(record: Record, rng: Generator) -> list[Turn]:
    """Video question answering: all questions about a video, each with the wish for a short answer."""
    return [Turn(f"{turn.question} {pick(rng, WORDINGS['short'])}", turn.answer) for turn in imgqa(record, rng)]


def imgqa(record: Record, rng: Generator) -> list[Turn]:
    """Instructions about an image, unchanged; the image is shown as a video that stands still."""
    return [Turn(event.text, event.answer) for event in record.events if event.answer]


def rtl(record: Record, rng: Generator) -> list[Turn]:
    """Reasoning localisation: one of the questions, unchanged, whose answer names moments and explains."""
    turns = imgqa(record, rng)
    return [pick(rng, turns)] if turns else []


TASKS: dict[str, Task] = {"event_loc": event_loc, "dvc": dvc, "vidqa": vidqa, "imgqa": imgqa, "rtl": rtl}
"""LITA's five, by the names of arXiv 2403.19046."""


def times(span: Span) -> str:
    """A span in trusted text: ``<1.00> <2.50>``."""
    return f"<{span.start:.2f}> <{span.end:.2f}>"


def pick(rng: Generator, choices: Sequence[Any]) -> Any:
    """One of several, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def pick_name(rng: Generator, rates: Mapping[str, float]) -> str:
    """One of several names, each as likely as its rate is large beside the others."""
    weights = np.array(list(rates.values()), dtype=np.float64)
    return list(rates)[rng.choice(len(weights), p=weights / weights.sum())]


def _captions(record: Record) -> list[tuple[str, Span]]:
    return [(event.text, event.span) for event in record.events if event.span and not event.answer]


Row: TypeAlias = Mapping[str, Any]
Source: TypeAlias = Callable[[Generator, Mapping[str, float], Mapping[str, Task]], tuple[list[Turn], Row]]
"""Draws a conversation about a video, by rates of tasks: its turns, none where nothing can be asked, and what else a
row for ``VideoPrompts.collate`` has: ``duration_seconds``, and ``video_features`` or ``pixel_values_videos``."""
Sources: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Source]]  # of a stage, by their names in its rates


@dataclass(frozen=True)
class Videos:
    """One task about one of the records, which have media and are equally likely; looks into a cache, or decodes."""

    records: Sequence[Record]
    processor: LitaProcessor
    cache: FeatureCache | Mapping[Path, Tensor] | None = None

    def __call__(self, rng: Generator, rates: Mapping[str, float], tasks: Mapping[str, Task]) -> tuple[list[Turn], Row]:
        """What the task finds to ask; the video is looked at where that is anything."""
        record = pick(rng, self.records)
        if not (turns := tasks[pick_name(rng, rates)](record, rng)):
            return [], {}
        told = {"duration_seconds": record.duration_seconds}
        if self.cache is None:
            return turns, {**told, "pixel_values_videos": pixels_of(record.media, self.processor)}
        return turns, {**told, "video_features": self.cache[record.media]}


def pixels_of(media: Path, processor: LitaProcessor) -> Tensor:
    """What an encoder reads, ``[t c s s]``, of a video, of a picture or of a folder of some, repeated if too few."""
    are_pictures = media.is_dir() or media.suffix.lower() in (".jpg", ".jpeg", ".png")
    return processor.frame_transform(processor.read(media, fps=5.0 if are_pictures else None).data)  # LITA's rate


@dataclass(frozen=True, kw_only=True)
class Mixture(Dataset[dict[str, Any]]):
    """Sample i is one conversation, drawn from (seed, i) alone: runs resume anywhere, workers and ranks share samples.

    ``rates`` are how often it is drawn by source and task, relative to others: ``{"activitynet": {"dvc": 5,
    "event_loc": 5}, "youcook2": {"dvc": 1, "event_loc": 1}, "rtl": {"rtl": 6}}`` are LITA's: tasks 1:1:1, sources 5:1.
    """

    sources: Mapping[str, Source]
    tasks: Mapping[str, Task]
    rates: Mapping[str, Mapping[str, float]]
    processor: LitaProcessor
    num_samples: int
    seed: int
    max_length: int = 2048

    def __post_init__(self) -> None:
        if not self.rates or not self.sources.keys() >= self.rates.keys():
            raise DataError(f"rates: expected sources among {[*self.sources]}, got {[*self.rates]}")

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        sums = {name: sum(rates.values()) for name, rates in self.rates.items()}
        for _ in range(1000):  # a record may hold nothing that can be asked about
            name = pick_name(rng, sums)
            turns, row = self.sources[name](rng, self.rates[name], self.tasks)
            if turns:
                asked = [(turn.question, turn.answer) for turn in turns]
                return {**row, "turns": self.processor.conversation(asked, row["duration_seconds"])}
        raise DataError(f"rates: a thousand records of {[*sums]} held nothing to be asked by {dict(self.rates)}")

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Samples → a batch, cut at ``max_length`` ids and padded on the right: a causal model then needs no mask."""
        batch = self.processor.prompts.collate(rows)
        texts = {name: batch[name][:, : self.max_length] for name in ("input_ids", "labels")}
        return texts | {name: batch[name] for name in ("video_features", "pixel_values_videos") if name in batch}
