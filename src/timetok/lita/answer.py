"""The whole flow in one call: a video and a question → spans. Shapes: t frames, p patches, e vision width."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import BatchEncoding
from transformers.generation.streamers import BaseStreamer

from timetok.adapter.hooks import EncodedVideo, remember
from timetok.atomic import read_json
from timetok.codecs import format_span
from timetok.decoding import SpanConstraint, span_distribution
from timetok.errors import ModelFolderError, PromptError, raised_as
from timetok.lita.modeling import LitaConfig, LitaForConditionalGeneration
from timetok.lita.processing import LitaProcessor, Video
from timetok.timegrid import Span
from timetok.video import Frames

TINY_MODEL = Path(__file__).parent / "tiny"  # the bundled model: it knows coloured shapes and nothing else


def load_sample() -> tuple[Path, str, Span]:
    """The mp4 that ships with timetok, a question about it and the true answer; DataError if it is not there."""
    folder = TINY_MODEL.with_name("sample")
    entry = read_json(folder / "sample.json", dict, "the bundled clip's question and answer")
    return folder / "clip.mp4", entry["question"], Span(*entry["span"])


@dataclass(frozen=True)
class Answer:
    """What a model said about a video that lasts ``duration_seconds``: ``text``, with seconds for its time tokens.

    ``spans`` are the well-formed ones in it, in seconds, perhaps none; ``times_seconds`` every moment, in order, of a
    span or not. ``probabilities`` are those of the moments' time tokens, ``confidences`` the products of each span's
    two, or as `Localizer.weigh` says; there are none where seconds are written as text. ``unfinished``: the answer
    broke off right behind its last moment, as long as it might be. ``num_tokens`` were read and written.
    """

    text: str
    spans: tuple[Span, ...]
    confidences: tuple[float, ...]
    times_seconds: tuple[float, ...]
    duration_seconds: float
    probabilities: tuple[float, ...] = ()
    unfinished: bool = False
    num_tokens: int = 0


def find_folder(model: str | os.PathLike[str] | None) -> Path:
    """A folder with a model, or where the one of a name was downloaded to, or the bundled one; ModelFolderError."""
    if model is None or (Path(model) / "config.json").is_file():
        return Path(TINY_MODEL if model is None else model).resolve()
    try:
        return Path(snapshot_download(os.fspath(model), local_files_only=True))
    except (OSError, ValueError) as error:  # which speaks of the network
        wanted = "a folder with a config.json, or a name fetched by `hf download NAME`"
        raise ModelFolderError(f"model: expected {wanted}, got {os.fspath(model)!r}") from error


def telling_which(folder: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """Whatever breaks while a folder is loaded becomes a ModelFolderError of one line that names it."""
    return raised_as(ModelFolderError, f"model: {os.fspath(folder)!r} cannot be loaded", Exception)


def load_weights(kind: Any, folder: str | os.PathLike[str], **hf_kwargs: Any) -> Any:
    """``kind.from_pretrained`` of a folder's safetensors; ModelFolderError where some are missing or do not fit."""
    told = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # to name them in one line
    model, info = kind.from_pretrained(folder, **{"local_files_only": True, "use_safetensors": True} | told | hf_kwargs)
    if wrong := [*info["missing_keys"], *info["mismatched_keys"]]:  # now random numbers
        raise ModelFolderError(f"{len(wrong)} weights are missing or of another size, such as {wrong[0]}")
    return model


def check_length(model: Any, length: int, max_new_tokens: int) -> None:
    """Refuse, by a PromptError, a prompt of ``length`` tokens that leaves no room for an answer."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)  # some models have no bound
    if context is not None and length + max_new_tokens > context:
        most = f"{context - max_new_tokens} fit the model beside an answer of {max_new_tokens}"
        raise PromptError(f"question: {length} tokens with the video, but {most}; ask less, or show fewer frames")


class Localizer:
    """A LITA model, put in evaluation mode, with the processor saved with it: ready to be asked."""

    def __init__(self, model: LitaForConditionalGeneration, processor: LitaProcessor) -> None:
        self.model, self.processor, self.tt = model.train(False), processor, processor.tt
        self.num_steps = max(min(processor.num_frames, len(self.tt.time_token_ids) or processor.num_frames) - 1, 1)
        self._constraint = cache(lambda: SpanConstraint(self.tt, max_spans=None, free_text=True))

    @classmethod
    def load(cls, folder: str | os.PathLike[str] | None = None, *, device: str = "cpu") -> Self:
        """Load a LITA folder, bundled if None, in float32 on a CPU, else as stored; ModelFolderError: it is none."""
        path = find_folder(folder)
        with telling_which(path):
            kind = LitaConfig.get_config_dict(path)[0].get("model_type")
            if kind != LitaConfig.model_type:
                raise ModelFolderError(f"it holds a {kind!r}, expected a {LitaConfig.model_type!r}")
            dtype: Any = torch.float32 if torch.device(device).type == "cpu" else "auto"
            model = load_weights(LitaForConditionalGeneration, path, dtype=dtype)
            return cls(model.to(device), LitaProcessor.from_pretrained(path, local_files_only=True))

    def read(self, video: Video) -> Frames:
        """As many frames of a file or of ``Frames`` as the model is shown, spread evenly, both ends included."""
        return self.processor.read(video)

    def encode(self, frames: Frames) -> EncodedVideo:
        """One video as the language model reads it, to be asked about any number of times."""
        return cast(EncodedVideo, self.model.model.encode_video(pixels=self.processor.frame_transform(frames.data)))

    def check_question(self, question: str, *, max_new_tokens: int = 96) -> None:
        """Refuse, before any decoding, a question that `ask` would refuse."""
        self._batch([question], [1.0], max_new_tokens)

    def ask(
        self, videos: Sequence[EncodedVideo | Tensor], questions: Sequence[str], durations: Sequence[float], *,
        max_new_tokens: int = 96, constrained: bool = False, streamer: BaseStreamer | None = None,
    ) -> list[Answer]:  # fmt: skip
        """Answer a batch of questions, greedily: what `encode` gave, or features ``[t p e]``, and seconds for each.

        Questions are untrusted text: a literal ``<t12>`` stays plain characters. PromptError is raised where one is
        empty, holds ``<video>``, or does not fit the context beside ``max_new_tokens``, the bound on each answer. Where
        all are about one video, what they begin with is read once. ``streamer``, for one question, is transformers'.
        """
        batch = self._batch(questions, durations, max_new_tokens, videos)
        if len(videos) > 1 and len(set(videos)) == 1 and isinstance(first := videos[0], EncodedVideo):
            row = batch["input_ids"][0][batch["attention_mask"][0].bool()]
            begins = row[: int((row == self.processor.video_token_id).nonzero()[-1]) + 1]
            batch["video_features"] = [remember(self.model.model, first.tokens, begins.tolist())] * len(videos)
        greedy: Any = {"do_sample": False, "num_beams": 1, "return_dict_in_generate": True, "output_logits": True}
        if constrained:
            greedy["logits_processor"] = [self._constraint().processor(list(durations))]
        output = self.model.generate(**batch, max_new_tokens=max_new_tokens, streamer=streamer, **greedy)
        new = output.sequences[:, batch["input_ids"].shape[1] :]
        steps = zip(output.logits, new.T, strict=True)
        chosen = torch.cat([logits.float().softmax(-1).gather(1, ids[:, None]) for logits, ids in steps], dim=1)
        lengths = batch["attention_mask"].sum(1).tolist()
        return list(map(self._answer, new.tolist(), chosen.tolist(), durations, lengths))

    def weigh(self, videos: Sequence[Any], questions: Sequence[str], durations: Sequence[float]) -> list[Answer]:
        """What the model believes, not what it says, one by one: the span of highest expected IoU, between the marks.

        See `span_distribution`; its confidence is that IoU. TokenizerError: there are no time tokens.
        """
        answers, tt, grid = list[Answer](), self.tt, self.tt.grid
        written = tt.tokenizer.encode(" " + format_span(tt.codec, Span(0.0, 1.0), 1.0), add_special_tokens=False)
        first, second = (written.index(tt.encode_time(end, 1.0)[0]) for end in (0.0, 1.0))
        between = written[first + 1 : second]
        for video, question, duration in zip(videos, questions, durations, strict=True):
            batch = self._batch([question], [duration], len(written), [video])
            ids = torch.cat([batch["input_ids"], batch["input_ids"].new_tensor([written[:first]])], 1)
            inputs = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            (found,) = span_distribution(self.model, inputs, tt, durations=[duration], between_ids=between)
            span, confidence = found.best()
            start, end = grid.encode([*span], duration)
            likely = float(found.joint.sum(1)[start]), float(found.joint.sum(0)[end])
            moved, num_tokens = found.refined(span), ids.shape[1] + len(written) - first
            text = f"<{moved.start:.2f}> <{moved.end:.2f}>"
            answers.append(Answer(text, (moved,), (confidence,), tuple(moved), duration, likely, num_tokens=num_tokens))
        return answers

    def _batch(
        self, questions: Sequence[str], durations: Sequence[float], max_new_tokens: int, videos: Sequence[Any] = ()
    ) -> BatchEncoding:
        asked = zip(questions, durations, strict=True)
        texts = [self.processor.prompt(question, duration_seconds=duration) for question, duration in asked]
        counts = [self.processor.num_video_tokens] * len(texts)
        batch = self.processor.prompts(texts, videos=videos, counts=counts, trusted=False)
        check_length(self.model, batch["input_ids"].shape[1], max_new_tokens)
        return batch.to(self.model.device)

    def _answer(self, ids: list[int], probabilities: list[float], duration: float, num_read: int) -> Answer:
        """The answer in some new ids, which go on after its end as padding, and the probability of each."""
        tt, end = self.tt, self.processor.tokenizer.eos_token_id
        ids = ids[: ids.index(end) + 1] if end in ids else ids
        marks = [pair for pair in zip(ids, probabilities, strict=False) if pair[0] in tt.time_token_ids]
        pairs = zip(marks[::2], marks[1::2], strict=False)
        confidences = tuple(p * q for (start, p), (end, q) in pairs if tt.spans([start, end], duration))
        text, spans, times = tt.decode(ids, duration).strip(), tt.spans(ids, duration), tt.times(ids, duration)
        likely, unfinished = tuple(p for _, p in marks), ids[-1:] != [] and ids[-1] in tt.time_token_ids
        told: Any = {"probabilities": likely, "unfinished": unfinished, "num_tokens": num_read + len(ids)}
        return Answer(text, tuple(spans), confidences, tuple(times), duration, **told)
