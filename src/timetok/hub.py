"""Video language models of the Hugging Face Hub, untrained and through their own processors; who answers a question."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, TypeAlias

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig
from transformers.generation.streamers import BaseStreamer

from timetok.adapter.prompts import check_typed
from timetok.codecs import SecondsCodec
from timetok.decoding import SpanConstraint
from timetok.errors import ArgumentError, PromptError, raised_as
from timetok.lita.answer import Answer, Localizer, check_length, find_folder, load_weights, telling_which
from timetok.lita.modeling import LitaConfig
from timetok.lita.processing import Video
from timetok.tokenizer import TimeTokenizer
from timetok.video import Frames, read_frames


class HubLocalizer:
    """A video language model of transformers and its own processor; offers what `Localizer` does for LITA.

    It is asked for one span and held to ``12.3 - 45.0 seconds`` from its first token on, even if it would rather think.
    ``model`` is of ``AutoModelForImageTextToText``, ``processor`` its own; ``num_frames`` are shown to it.
    """

    def __init__(self, model: Any, processor: Any, *, num_frames: int = 64) -> None:
        self.model, self.processor, self.num_frames = model.train(False), processor, num_frames
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
        self,
        clips: Sequence[Frames],
        questions: Sequence[str],
        durations: Sequence[float],
        *,
        max_new_tokens: int = 96,
        constrained: bool = True,
        streamer: BaseStreamer | None = None,
    ) -> list[Answer]:
        """Answer questions greedily, with what `encode` gave and the duration in seconds for each; as `Localizer.ask`.

        With thousands of visual tokens each they are put one by one, without padding. There are no confidences.
        """
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

    def weigh(self, clips: Sequence[Frames], questions: Sequence[str], durations: Sequence[float]) -> list[Answer]:
        """As `ask`: there is no posterior over times that are text."""
        return self.ask(clips, questions, durations)

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


AnyLocalizer = Localizer | HubLocalizer
Model: TypeAlias = str | os.PathLike[str] | AnyLocalizer | None


def _prompt(processor: Any, question: str, times: Sequence[float], duration: float) -> str:
    """One user turn with a video, in the model's own chat template."""
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


_loaded = lru_cache(1)(lambda folder, _changed: load_localizer(folder))


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


def read_ahead(localizer: AnyLocalizer, videos: Iterable[Video]) -> Iterator[Future[Frames]]:
    """Frames of video after video, each read while the one before is in use; an error comes from ``result()``."""
    with ThreadPoolExecutor(1) as pool:
        reading = (pool.submit(localizer.read, video) for video in videos)
        yield from (before for before, _ in pairwise(chain(reading, [None])) if before)
