"""When, in hours: find the parts of a video that a question may be about, ask there, and look closer.

Shapes: n frames that are searched, e width of the matcher's space.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm
from transformers import AutoModel, AutoProcessor

from timetok.cache import FeatureCache, weights_digest
from timetok.errors import ArgumentError
from timetok.hub import Model, localizer_of, read_ahead
from timetok.lita.answer import Answer, find_folder, load_weights, telling_which
from timetok.timegrid import Span, iou
from timetok.video import Frames, Part, Size, iter_frames, read_frames

Source: TypeAlias = str | os.PathLike[str] | Frames
Floats: TypeAlias = NDArray[np.float64]
_CHUNK = 64  # frames that are embedded at once
_ALIKE = 0.3  # spans that overlap more are one


class Matcher(Protocol):
    """A vision-text model: frames and questions in one space, where those that fit have a large dot product.

    ``name`` tells its embeddings from others on disk; ``size`` is of the frames it is shown, as in `read_frames`.
    """

    name: str
    size: Size

    def frames(self, pixels: Tensor) -> Tensor:
        """Frames uint8 ``[n 3 h w]`` → ``[n e]``."""

    def text(self, question: str) -> Tensor:
        """A question → ``[e]``."""


class TwoTowers:
    """A `Matcher` of a CLIP, a SigLIP or a relative: a folder of transformers, or a name that was downloaded.

    ModelFolderError is raised where it is neither, or its model has no features of images and texts.
    """

    def __init__(self, folder: str | os.PathLike[str], *, device: str = "cpu") -> None:
        path = find_folder(folder)
        with telling_which(path):
            self.model = load_weights(AutoModel, path).to(device)
            self.processor = AutoProcessor.from_pretrained(path, local_files_only=True)
            self.features = self.model.get_image_features, self.model.get_text_features
            self.size = min(dict(self.processor.image_processor.size).values())
        self.name = weights_digest(self.model)

    @torch.inference_mode()
    def frames(self, pixels: Tensor) -> Tensor:
        """Frames uint8 ``[n 3 h w]`` → ``[n e]``, rows of length 1."""
        inputs = self.processor.image_processor(list(pixels), return_tensors="pt").to(self.model.device)
        return normalize(self.features[0](**inputs).pooler_output)

    @torch.inference_mode()
    def text(self, question: str) -> Tensor:
        """A question, cut where it is too long → ``[e]`` of length 1."""
        how: Any = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        inputs = self.processor.tokenizer([question], **how).to(self.model.device)
        return normalize(self.features[1](**inputs).pooler_output)[0]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a long video is searched; ArgumentError where a number is not positive.

    Attributes:
        matcher: What knows which frames fit a question; without one the model is asked about all windows.
        folder: Where the embeddings of files are kept for later searches; None keeps none.
        every_seconds: Distance of the frames that are matched with a question.
        smooth_seconds: Their scores are averaged over a Gaussian of this standard deviation.
        window_seconds: Length of the windows that the model is shown first, around the highest scores.
        num_windows: How many of them; the scores are at least half a window apart.
        resolution_seconds: Windows get closer until the model's marks, and its frames, are no further apart.
        margin: A closer window is so many times as long as the span that was found.
        max_zooms: Most windows about one score after the first.
        max_spans: Most spans of an answer.
    """

    matcher: Matcher | None = None
    folder: str | os.PathLike[str] | None = None
    every_seconds: float = 0.5
    smooth_seconds: float = 1.0
    window_seconds: float = 60.0
    num_windows: int = 5
    resolution_seconds: float = 0.25
    margin: float = 2.5
    max_zooms: int = 4
    max_spans: int = 1

    def __post_init__(self) -> None:
        if wrong := {name: value for name, value in list(vars(self).items())[2:] if not value > 0}:
            raise ArgumentError(f"search: expected positive numbers, got {wrong}")

    def embed(self, video: Source) -> tuple[Floats, Tensor]:
        """Seconds ``[n]`` and embeddings ``[n e]`` of the first frame in each ``every_seconds``, in constant memory."""
        matcher: Any = self.matcher

        def table(_: object) -> Tensor:
            rows, shown = list[Tensor](), self._shown(video, matcher.size)
            with tqdm(desc="frames searched", unit="frames") as bar:
                while chunk := list(islice(shown, _CHUNK)):
                    seconds, pixels = zip(*chunk, strict=True)
                    embeddings = matcher.frames(torch.stack(pixels)).float().cpu()
                    rows.append(torch.cat([torch.tensor(seconds)[:, None], embeddings], 1))
                    bar.update(len(chunk))
            return torch.cat(rows)

        if self.folder is None or isinstance(video, Frames):
            found = table(video)
        else:
            cache = FeatureCache(self.folder, {"matcher": matcher.name, "every_seconds": self.every_seconds})
            cache.fill([Path(video)], table)
            found = cache[Path(video)]
        return found[:, 0].double().numpy(), found[:, 1:]

    def _shown(self, video: Source, size: Size) -> Iterator[tuple[float, Tensor]]:
        if not isinstance(video, Frames):
            return iter_frames(video, size=size, every_seconds=self.every_seconds)
        first = np.unique(video.times_seconds // self.every_seconds, return_index=True)[1].tolist()
        return ((float(video.times_seconds[k]), video.data[k]) for k in first)

    def peaks(self, times_seconds: Floats, scores: Floats, duration: float) -> list[float]:
        """Where to look first: the moments of the highest scores ``[n]``, best first; everywhere without any."""
        apart = min(self.window_seconds, duration) / 2
        if not len(scores):
            return list(np.arange(apart, duration, apart).tolist())
        chosen: list[float] = []
        for moment in times_seconds[np.argsort(-scores, kind="stable")].tolist():
            is_new = len(chosen) < self.num_windows and all(abs(moment - other) >= apart for other in chosen)
            chosen += [moment] if is_new else []
        return chosen

    def closer(self, chain: "_Chain", duration: float, steps: int) -> Span | None:
        """The window to be asked about next, of a model that tells ``steps`` moments apart in one; None at the end.

        That is half of the last, around the peak, where the span misses it; twice the last where the span may go on
        outside; else one that the span fills better.
        """
        (start, end), found = chain.tried[-1].window, chain.tried[-1].span
        if found is None or len(chain.tried) > self.max_zooms:
            return None
        middle, step = (found.start + found.end) / 2, (end - start) / steps
        if chain.tried[-1].fit < chain.promise / 2:
            return around(chain.peak, (end - start) / 2, duration)
        if (start > 0 and found.start - start < step) or (end < duration and end - found.end < step):
            return around(middle, 2 * (end - start), duration)
        width = max(self.margin * found.duration_seconds, self.resolution_seconds * steps)
        is_closer = step > self.resolution_seconds and width < 0.8 * (end - start)
        return around(middle, width, duration) if is_closer else None


class Tried(NamedTuple):
    """A window that was shown to the model, what it said of it, and the span in that, in seconds of the whole video.

    ``fit`` is the mean score of the search within the span, from 0 for the median of all scores to 1 for the highest,
    and 1 without a search; ``confidence`` is that times the model's, if it tells one. Both are 0 without a span.
    """

    window: Span
    answer: Answer
    span: Span | None
    fit: float
    confidence: float


@dataclass(frozen=True, eq=False)
class LongAnswer:
    """When something happens in a long video, and how that was found.

    Attributes:
        spans: In seconds of the video, best first; empty where no window gave one.
        confidences: One a span, as in `Tried`.
        tried: The windows that the model was shown; those about one score, ever closer, together.
        times_seconds: Of the frames that were matched with the question, ``[n]``; none without a matcher.
        scores: How well they fit, smoothed, ``[n]``.
    """

    spans: tuple[Span, ...]
    confidences: tuple[float, ...]
    tried: tuple[tuple[Tried, ...], ...]
    times_seconds: Floats
    scores: Floats


@dataclass(eq=False)
class _Chain:
    """Windows that were tried around one peak for one question, and the one that is wanted next."""

    question: int
    peak: float
    promise: float  # how well the peak fits
    wanted: Span | None
    tried: list[Tried] = field(default_factory=list)


def localize_long(
    video: Source, question: str | Sequence[str], model: Model = None, search: Search | None = None
) -> Any:
    """Ask when something happens in a video of hours → a `LongAnswer`, or a list of them for a list of questions.

    Windows that fit the question are shown to the model, ever closer. Questions share the embeddings of the video, and
    windows. ``model`` and what is raised are as in `timetok.localize`. Source: retrieval, then grounding, is what
    ExtremeWhenBench (arXiv 2606.12300) finds best; the closer windows are ours.

    >>> search = Search(matcher=TwoTowers("clip-vit-base-patch32"), folder="index")  # doctest: +SKIP
    >>> localize_long("film.mp4", "When does it rain?", NAME, search).spans          # doctest: +SKIP
    (Span(start=3601.2, end=3644.9),)
    """
    localizer, how = localizer_of(model), search or Search()
    questions = [question] if isinstance(question, str) else list(question)
    for each in questions:
        localizer.check_question(each)
    duration = video.duration_seconds if isinstance(video, Frames) else read_frames(video, 1).duration_seconds
    times, embeddings = how.embed(video) if how.matcher else (np.empty(0), torch.empty(0))
    steps = min(localizer.num_frames, len(localizer.tt.time_token_ids) or localizer.num_frames) - 1
    chains, scores = list[_Chain](), list[Floats]()
    for k, each in enumerate(questions):
        fits = (embeddings @ how.matcher.text(each).float().cpu()).double().numpy() if how.matcher else np.empty(0)
        scores.append(gaussian_filter1d(fits, how.smooth_seconds / how.every_seconds) if len(fits) else fits)
        for peak in how.peaks(times, scores[k], duration):
            place = round(4 * peak / how.window_seconds) / 4 * how.window_seconds  # so that questions share windows
            window = around(place, how.window_seconds, duration)
            chains.append(_Chain(k, peak, _fit(times, scores[k], Span(peak, peak)), window))
    while wanted := [chain for chain in chains if chain.wanted]:
        wanted.sort(key=lambda chain: (chain.wanted, chain.question))
        groups = [(window, list(group)) for window, group in groupby(wanted, lambda chain: chain.wanted) if window]
        coming = read_ahead(localizer, [_part(video, window) for window, _ in groups])
        for (window, group), frames in zip(tqdm(groups, "windows"), coming, strict=True):
            shown: Any = [localizer.encode(frames.result())] * len(group)
            asked = [questions[chain.question] for chain in group]
            answers = localizer.weigh(shown, asked, [window.duration_seconds] * len(group))
            for chain, answer in zip(group, answers, strict=True):
                span = next((Span(*(window.start + end for end in found)) for found in answer.spans), None)
                fit = _fit(times, scores[chain.question], span) if span else 0.0
                chain.tried.append(Tried(window, answer, span, fit, fit * next(iter(answer.confidences), 1.0)))
                chain.wanted = None
        for k in range(len(questions)):
            worth = {chain: chain.promise + chain.tried[-1].confidence for chain in chains if chain.question == k}
            for chain in sorted(worth, key=lambda chain: -worth[chain])[: how.max_spans + 1]:
                if 2 * worth[chain] >= max(worth.values()):
                    chain.wanted = how.closer(chain, duration, steps)
    found = [[chain.tried for chain in chains if chain.question == k] for k in range(len(questions))]
    answered = [_answer(tried, how.max_spans, times, scores[k]) for k, tried in enumerate(found)]
    return answered[0] if isinstance(question, str) else answered


def around(middle: float, width: float, duration: float) -> Span:
    """The part of a video, as long as ``width`` seconds or the video, whose middle is nearest to a moment."""
    start = min(max(middle - width / 2, 0.0), max(duration - width, 0.0))
    return Span(start, min(start + width, duration))


def _part(video: Source, window: Span) -> Frames | Part:
    if not isinstance(video, Frames):
        return Part(video, window)
    first, last = (int((video.times_seconds < end).sum()) for end in (np.nextafter(window.start, np.inf), window.end))
    kept = slice(max(first - 1, 0), max(last, 1))
    return Frames(video.data[kept], (video.times_seconds[kept] - window.start).clamp(min=0), window.duration_seconds)


def _fit(times_seconds: Floats, scores: Floats, span: Span) -> float:
    if not len(scores):
        return 1.0
    low, within = np.median(scores), np.interp(np.linspace(span.start, span.end, 32), times_seconds, scores).mean()
    return float(np.clip((within - low) / max(scores.max() - low, 1e-12), 0.0, 1.0))


def _answer(chains: Sequence[Sequence[Tried]], num: int, times_seconds: Floats, scores: Floats) -> LongAnswer:
    """Of the last span of each chain the best ``num`` that are not alike."""
    last = (next((each for each in reversed(chain) if each.span), None) for chain in chains)
    kept: list[tuple[float, Span]] = []
    for confidence, span in sorted(((each.confidence, each.span) for each in last if each and each.span), reverse=True):
        if len(kept) < num and all(iou(span, other) <= _ALIKE for _, other in kept):
            kept.append((confidence, span))
    spans, confidences = tuple(span for _, span in kept), tuple(confidence for confidence, _ in kept)
    return LongAnswer(spans, confidences, tuple(map(tuple, chains)), times_seconds, scores)
