"""Video language models of the Hugging Face Hub, untrained and through their own processors; who answers a question."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig
from transformers.generation.streamers import BaseStreamer

from timetok.adapter.prompts import check_typed
from timetok.codecs import SecondsCodec
from timetok.decoding import SpanConstraint
from timetok.errors import ArgumentError, PromptError, check_count, raised_as
from timetok.lita.answer import Answer, Localizer, check_length, find_folder, load_weights, telling_which
from timetok.lita.modeling import LitaConfig
from timetok.lita.processing import Video
from timetok.timegrid import Span, iou
from timetok.tokenizer import TimeTokenizer
from timetok.video import Frames, Part, read_frames, spread


class HubLocalizer:
    """An ``AutoModelForImageTextToText`` and its own processor, shown ``num_frames``; what `Localizer` is for LITA.

    It is asked for one span and held to ``12.3 - 45.0 seconds`` from its first token on, even if it would rather think.
    """

    def __init__(self, model: Any, processor: Any, *, num_frames: int = 64) -> None:
        self.model, self.processor, self.num_frames = model.train(False), processor, num_frames
        self.num_steps = max(num_frames - 1, 1)
        self.tt = TimeTokenizer.wrap(processor.tokenizer, codec=SecondsCodec(span="{} - {} seconds"))
        stops = model.generation_config.eos_token_id
        self._constraint = SpanConstraint(self.tt, stop_ids=[stops] if isinstance(stops, int) else stops)

    def read(self, video: Video) -> Frames:
        """``num_frames`` frames of a file, the first and the last included; ``Frames`` are shown as they are."""
        return video if isinstance(video, Frames) else read_frames(video, self.num_frames)

    def encode(self, frames: Frames) -> Frames:
        """The frames themselves, which such a model reads anew with each question."""
        return frames

    def check_question(self, question: str) -> None:
        """Refuse, before any decoding, a question that `ask` would refuse whatever the video."""
        named = (getattr(self.processor, f"{kind}_token", None) for kind in ("image", "video", "audio"))
        check_typed(question, self.tt.tokenizer, list(filter(None, named)))

    @torch.inference_mode()
    def ask(
        self, clips: Sequence[Frames], questions: Sequence[str], durations: Sequence[float], *,
        max_new_tokens: int = 96, constrained: bool = True, streamer: BaseStreamer | None = None,
    ) -> list[Answer]:  # fmt: skip
        """Answer greedily, one by one, as each has thousands of visual tokens; no confidences. See `Localizer.ask`."""
        answers, stops = [], sorted(self._constraint.stop_ids)
        options: Any = {"eos_token_id": stops, "pad_token_id": stops[0], "streamer": streamer, "do_sample": False}
        options |= {"max_new_tokens": max_new_tokens, "num_beams": 1, "repetition_penalty": 1.0}  # digits may repeat
        for frames, question, duration in zip(clips, questions, durations, strict=True):
            inputs = self.prepare(frames, question, duration).to(self.model.device)
            length = inputs["input_ids"].shape[1]
            check_length(self.model, length, max_new_tokens)
            for name in filter(lambda name: name.startswith("pixel_values"), inputs):  # times keep their digits
                inputs[name] = inputs[name].to(self.model.dtype)
            held = [self._constraint.processor(duration)] if constrained else []
            told = f"question: {length} tokens fill the GPU's memory; show fewer frames"
            with raised_as(PromptError, told, torch.OutOfMemoryError):
                ids = self.model.generate(**inputs, **options, logits_processor=held)[0, length:].tolist()
            text, spans, times = self.tt.decode(ids).strip(), self.tt.spans(ids, duration), self.tt.times(ids, duration)
            answers.append(Answer(text, tuple(spans), (), tuple(times), duration, num_tokens=length + len(ids)))
        return answers

    def prepare(self, frames: Frames, question: str, duration: float) -> Any:
        """What the model takes for one question, from its processor, which is told when frames are shown."""
        self.check_question(question)
        times, start = frames.times_seconds.tolist(), self.tt.tokenizer.bos_token
        text = _prompt(self.processor, question, times, duration)
        length = times[-1] * len(times) / max(len(times) - 1, 1) or duration  # len(times) frames at their mean distance
        counted: Any = {"fps": 1000.0, "frames_indices": [round(1000 * time) for time in times]}  # in milliseconds
        counted |= {"total_num_frames": round(1000 * length), "duration": duration}
        options: Any = {"do_sample_frames": False, "video_metadata": [counted], "return_tensors": "pt"}
        options["add_special_tokens"] = start is None or not text.startswith(start)
        return self.processor(text=[text], videos=[[frames.data]], **options)  # one list a prompt, or old ones miscount


AnyLocalizer: TypeAlias = Localizer | HubLocalizer
_MOST_WINDOWS, _MARGIN, _ALIKE = 5, 2.5, 0.3  # about a moment; of a window over its span; spans of more IoU are one
Model: TypeAlias = str | os.PathLike[str] | AnyLocalizer | None
_loaded = lru_cache(1)(lambda folder, _changed: load_localizer(folder))


def _prompt(processor: Any, question: str, times: Sequence[float], duration: float) -> str:
    listed = ", ".join(f"{time:.1f}" for time in times)
    text = f"The video lasts {duration:.1f} seconds; its {len(times)} frames are shown at {listed} seconds. {question}"
    text += '\nAnswer with the start and the end alone, in the form "START - END seconds".'
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
    prompt = str(processor.apply_chat_template([turn], add_generation_prompt=True))
    if (getattr(processor, "video_token", None) or "\0") not in prompt:
        raise ArgumentError(f"processor: expected one whose chat template shows videos, got {type(processor).__name__}")
    return prompt


def load_localizer(
    model: str | os.PathLike[str] | None = None, *, device: str | None = None, num_frames: int | None = None
) -> AnyLocalizer:
    """Whatever answers questions about videos; nothing is ever downloaded.

    ``model`` is a folder with a LITA or a video language model of transformers, or the name of one that was downloaded
    (``hf download NAME``), else ModelFolderError is raised; None is the bundled model of shapes. ``device`` is as torch
    names it; if None, a LITA stays on the CPU, others go to the GPU if there is one, in their own dtype. ``num_frames``
    are shown, 64 if None; a LITA has its own number, so ArgumentError is raised.
    """
    folder = find_folder(model)
    with telling_which(folder):
        if PreTrainedConfig.get_config_dict(folder)[0].get("model_type") != LitaConfig.model_type:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            _prompt(processor, "When?", [0.0], 1.0)  # refused before the weights are loaded, which may be many
            found = load_weights(AutoModelForImageTextToText, folder, dtype="auto", trust_remote_code=False)
            found.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            return HubLocalizer(found, processor, num_frames=num_frames or 64)
    if num_frames is not None:
        raise ArgumentError(f"num_frames: a LITA has its own number of frames, got {num_frames}; leave it out")
    return Localizer.load(folder, device=device or "cpu")


def localizer_of(model: Model) -> AnyLocalizer:
    """What answers: a localizer itself, or the one of a folder or name, of which the last stays loaded."""
    if isinstance(model, AnyLocalizer):
        return model
    config = find_folder(model) / "config.json"
    return _loaded(config.parent, config.stat().st_mtime if config.exists() else 0.0)


def localize(video: Video, question: str, model: Model = None, *, max_new_tokens: int = 96) -> Answer:
    """Ask a model when something happens in a video; ``spans`` is empty where it gave no well-formed span.

    ``video`` is the path of a file, else VideoError is raised, or ``Frames``; ``question`` is untrusted text, for which
    PromptError is raised where it is empty or too long; ``model`` is what `load_localizer` takes, or gave.

    >>> localize("clip.mp4", "When is the red circle visible?").spans  # doctest: +SKIP
    (Span(start=3.2, end=7.9),)
    """
    return localize_all(video, [question], model, max_new_tokens=max_new_tokens)[0]


def localize_all(
    video: Video, questions: Sequence[str], model: Model = None, *, max_new_tokens: int = 96, batch_size: int = 8
) -> list[Answer]:
    """As `localize`, several questions about a video that is read and encoded once, ``batch_size`` put at a time."""
    localizer, answers = localizer_of(model), list[Answer]()
    for question in questions:
        localizer.check_question(question)
    frames = localizer.read(video)
    encoded: Any = localizer.encode(frames)
    for group in (questions[k : k + batch_size] for k in range(0, len(questions), batch_size)):
        shown = [encoded] * len(group), group, [frames.duration_seconds] * len(group)
        answers += localizer.ask(*shown, max_new_tokens=max_new_tokens)
    return answers


@dataclass(frozen=True)
class LongAnswer(Answer):
    """An `Answer` about a long video, best span first; ``tried``: each window shown, its answer in seconds of it."""

    tried: tuple[tuple[Span, Answer], ...] = ()


def localize_long(
    video: str | os.PathLike[str] | Frames, question: str, model: Model = None, *,
    scores: tuple[Any, Any] | None = None, window_seconds: float = 60.0, num_windows: int = 5,
    resolution_seconds: float = 0.25, max_spans: int = 1, ask: Any = None,
) -> LongAnswer:  # fmt: skip
    """`localize` in a video of hours: the model is shown windows, and closer ones around what it found there.

    ``scores`` are moments in seconds ``[n]``, in order, and how well the video fits the question there ``[n]``, as a
    CLIP tells (`timetok.recipes.search`); None asks about all of it. Windows of ``window_seconds`` stand around the
    ``num_windows`` highest that are half of that apart. They get closer until the model's marks and frames are at most
    ``resolution_seconds`` apart, or filled by two fifths. Of the spans found, the best ``max_spans`` that are not alike
    are given; a confidence is the model's, 1 if it tells none, times the mean score within, from 0 for the median to 1
    for the highest. Models with time tokens are weighed, not asked; ``ask`` takes the place of both. ArgumentError: a
    size or the scores make no sense.

    Source: retrieval, then grounding (arXiv 2606.12300); the closer windows are ours.
    """
    num_windows, max_spans = check_count("num_windows", num_windows), check_count("max_spans", max_spans)
    if not (window_seconds > 0 and resolution_seconds > 0):
        raise ArgumentError(f"window_seconds, resolution_seconds must be > 0, got {window_seconds, resolution_seconds}")
    localizer, tried, found = localizer_of(model), list[tuple[Span, Answer]](), list[tuple[float, Span]]()
    if scores is None and not (ask or localizer.tt.time_token_ids):
        raise ArgumentError("scores: needed by a model that writes times as text, since it tells no confidence")
    ask = ask or getattr(localizer, "weigh" if localizer.tt.time_token_ids else "ask")
    localizer.check_question(question)
    duration = video.duration_seconds if isinstance(video, Frames) else read_frames(video, 1).duration_seconds
    apart, steps, finest = min(window_seconds, duration) / 2, localizer.num_steps, resolution_seconds
    every = np.arange(apart, duration, apart)
    moments, fits = map(np.asarray, (every, np.zeros(len(every))) if scores is None else scores)
    in_order = moments.shape == fits.shape != (0,) and bool((np.diff([0, *moments, duration]) >= 0).all())
    if not in_order or not np.isfinite(fits).all():
        raise ArgumentError(f"scores: expected moments within {duration} s, in order, and a finite score for each")
    low, high = np.quantile(fits, (0.5, 1))
    curve = np.clip((fits - low) / (high - low), 0, 1) if high > low else np.ones(len(fits))

    def fit(start: float, end: float) -> float:
        within = curve[(start <= moments) & (moments <= end)]
        return float(within.mean() if len(within) else np.interp((start + end) / 2, moments, curve))

    firsts: dict[Span, float] = {}  # windows, on a grid that questions share, and their peaks
    for moment in moments[np.argsort(-fits, kind="stable")].tolist():
        if scores is None or (len(firsts) < num_windows and all(abs(moment - at) >= apart for at in firsts.values())):
            firsts.setdefault(_around(apart / 2 * round(2 * moment / apart), 2 * apart, duration), moment)
    for first, peak in tqdm(firsts.items(), "windows looked at"):
        window, here = cast(Span | None, first), list[tuple[float, Span]]()
        while window and len(here) < _MOST_WINDOWS:
            shown: Any = localizer.encode(localizer.read(_part(video, window, steps + 1)))
            (answer,) = ask([shown], [question], [window.duration_seconds])
            tried.append((window, answer))
            span = next((Span(*(window.start + end for end in each)) for each in answer.spans), None)
            here += [(fit(*span) * next(iter(answer.confidences), 1.0), span)] if span else []
            if not span or 2 * max(here[-1][0], fit(peak, peak)) < max(found, default=here[-1])[0]:
                break  # nothing there, or far less than elsewhere
            agrees, half = 2 * fit(*span) >= fit(peak, peak), window.duration_seconds / 2
            window = _closer(window, span, duration, steps, finest) if agrees else _around(peak, half, duration)
        found += here[-1:]
    best: list[tuple[float, Span]] = []
    for confidence, span in sorted(found, reverse=True):
        best += [(confidence, span)] if all(iou(span, other) < _ALIKE for _, other in best) else []
    confidences, spans = zip(*best[:max_spans], strict=True) if best else ((), ())
    ends, num_tokens = tuple(chain.from_iterable(spans)), sum(answer.num_tokens for _, answer in tried)
    told: Any = {"num_tokens": num_tokens, "tried": tuple(tried)}
    return LongAnswer(" ".join(f"<{end:.2f}>" for end in ends), spans, confidences, ends, duration, **told)


def _around(middle: float, width: float, duration: float) -> Span:
    start = min(max(middle - width / 2, 0.0), max(duration - width, 0.0))
    return Span(start, min(start + width, duration))


def _closer(window: Span, span: Span, duration: float, steps: int, resolution: float) -> Span | None:
    """Twice the window where the span may go on outside, else one that it fills better; None where all is well."""
    middle, length, step = (span.start + span.end) / 2, window.duration_seconds, window.duration_seconds / steps
    if 0 < window.start > span.start - step or duration > window.end < span.end + step:
        return _around(middle, 2 * length, duration)
    wanted = max(_MARGIN * span.duration_seconds, resolution * steps)
    return _around(middle, wanted, duration) if step > resolution and wanted < 0.8 * length else None


def _part(video: str | os.PathLike[str] | Frames, window: Span, most: int) -> Frames | Part:
    if not isinstance(video, Frames):
        return Part(video, window)
    times = video.times_seconds - window.start
    first, last = max(int((times <= 0).sum()) - 1, 0), max(int((times < window.duration_seconds).sum()), 1)
    kept = first + spread(last - first, min(last - first, most))
    return Frames(video.data[kept], times[kept].clamp(0, window.duration_seconds), window.duration_seconds)


def read_ahead(localizer: AnyLocalizer, videos: Iterable[Video]) -> Iterator[Future[Frames]]:
    """Frames of video after video, each read while the one before is in use; an error comes from ``result()``."""
    with ThreadPoolExecutor(1) as pool:
        reading = (pool.submit(localizer.read, video) for video in videos)
        yield from (before for before, _ in pairwise(chain(reading, [None])) if before)
