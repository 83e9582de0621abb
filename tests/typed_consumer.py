"""Every name at the top of timetok as a user's own typed code has it; `make check` lets mypy --strict read it.

It is never run. `assert_type` says what a checker knows. Where a variable has its type written down, it knows nothing:
what comes out hangs on what went in (scalars give scalars, arrays arrays), or torch's `Module.__call__` hides it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, assert_type

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

import timetok

from timetok import (  # isort: skip
    Answer, SlowFastPooler, Span, TimeGrid, TimeTokenizer, VideoAdapter, adapter, attention, codecs, decoding,
    embeddings, errors, hub, lita, localize, localize_long, losses, metrics, plots, pooling, recipes, timegrid,
    tokenizer, video, vision,
)  # fmt: skip
from timetok.lita.answer import Localizer, load_sample
from timetok.recipes.evaluate import Question, evaluate_model, read_questions
from timetok.recipes.records import Annotations, read_records
from timetok.recipes.tasks import Turn, event_loc


def ask(path: Path) -> None:
    answer = timetok.localize(path, "When is the red circle visible?")
    assert_type(answer, Answer)
    assert_type(answer.spans, tuple[Span, ...])
    assert_type(answer.spans[0].start, float)
    assert_type(answer.spans[0].duration_seconds, float)
    assert_type(answer.confidences, tuple[float, ...])
    assert_type(localize(str(path), "When?", None, max_new_tokens=8).text, str)
    found = localize_long(path, "When?", window_seconds=30.0)
    assert_type(found, hub.LongAnswer)
    assert_type(found.tried, tuple[tuple[Span, Answer], ...])
    assert_type(hub.localize_all(path, ["When?", "And then?"]), list[Answer])
    assert_type(hub.load_localizer(), Localizer | hub.HubLocalizer)
    assert_type(load_sample(), tuple[Path, str, Span])


def write_time(seconds: NDArray[np.float64]) -> None:
    grid = TimeGrid(num_tokens=100, marks="centres")
    assert_type(grid, TimeGrid)
    assert_type(grid.sample_times(60.0), NDArray[np.float64])
    index: int = grid.encode(30.0, 60.0)
    indices: NDArray[np.int64] = grid.encode(seconds, 60.0)
    back: float = timegrid.TimeGrid.preset("vila").decode(index, 60.0)
    assert_type(codecs.SecondsCodec().parse("<12.3>"), list[float])
    assert_type(codecs.format_span(codecs.IndexCodec(grid), Span(back, 40.0), 60.0), str)
    assert indices.ndim == 1


def add_tokens(hf_tokenizer: PreTrainedTokenizerBase, lm: PreTrainedModel, folder: Path) -> None:
    tt = TimeTokenizer.wrap(hf_tokenizer, T=100)
    assert_type(tt, TimeTokenizer)
    assert_type(tokenizer.TimeTokenizer.from_pretrained(folder), TimeTokenizer)
    assert_type(tt.grid, TimeGrid)
    assert_type(tt("it starts at <12.3>", duration=60.0), BatchEncoding)
    ids = tt.encode_time(12.3, 60.0)
    assert_type(ids, list[int])
    assert_type(tt.to_tokens("it starts at <12.3>", 60.0), str)
    assert_type(tt.decode(ids, 60.0), str)
    assert_type(tt.batch_decode([ids], 60.0), list[str])
    assert_type(tt.times(ids, 60.0), list[float])
    spans: list[Span] = tt.spans(ids, 60.0, prompt_length=0, malformed="sort")
    assert_type(embeddings.resize(lm, ids), nn.Module)
    embeddings.init_rows(lm, ids, how="interpolate")
    assert_type(embeddings.peft_kwargs(lm, ids), dict[str, Any])
    assert_type(losses.SoftTimeLoss(ids)(lm(input_ids=ids), lm(input_ids=ids).logits), Tensor)
    assert_type(decoding.SpanConstraint(tt).processor(60.0).__class__.__name__, str)
    (posterior,) = decoding.span_distribution(lm, {}, tt, durations=[60.0])
    assert_type(posterior, decoding.SpanPosterior)
    assert_type(posterior.refined(spans[0]), Span)


def pool(features: Tensor) -> None:
    pooler = SlowFastPooler(num_slow_frames=4)
    assert_type(pooler.num_tokens(num_frames=100, grid=(16, 16)), int)
    assert_type(SlowFastPooler.preset("lita-1.5", dim=4096), SlowFastPooler)
    assert_type(pooling.as_grid(features), Tensor)
    assert_type(pooling.pool(features, pooling.plan_of(preset="lita")), Tensor)
    assert_type(pooling.choose(pooling.PRESETS["lita"], "cpu"), str)
    assert_type(attention.frame_mask(features, kind="frame-block-causal"), Tensor)
    assert_type(attention.temporal_position_ids(features), Tensor)
    tokens: Tensor = pooler(features)
    assert tokens.ndim == 3


def attach(lm: PreTrainedModel, tt: TimeTokenizer, features: Tensor, folder: Path) -> None:
    attached = VideoAdapter(lm, tt, vision_dim=1024, projector="mlp2x_gelu", order="project-first")
    assert_type(attached.processor, adapter.VideoPrompts)
    assert_type(attached.prepare(["<video>\nWhen?"], videos=[features]), BatchEncoding)
    assert_type(attached.encode_video(features), adapter.EncodedVideo)
    assert_type(attached.prompt_embeds(features), list[Tensor])
    assert_type(attached.processor.collator(), Callable[[Sequence[Mapping[str, Any]]], BatchEncoding])
    attached.save_pretrained(folder, adapter_only=True)
    assert_type(VideoAdapter.from_pretrained(folder, lm=lm), VideoAdapter)


def see(path: Path) -> None:
    frames = video.read_frames(path, num_frames=100, size=224)
    assert_type(frames, video.Frames)
    assert_type(frames.data, Tensor)
    assert_type(frames.duration_seconds, float)
    assert_type(next(video.iter_frames(path)), tuple[float, Tensor])
    assert_type(vision.FrameTransform.of("vit_tiny_patch16_224"), vision.FrameTransform)
    plots.save(plots.timeline(frames, [Span(1.0, 2.0)], question="When?"), "answer.png")
    config = lita.LitaConfig()
    assert_type(lita.LitaForConditionalGeneration(config), lita.LitaForConditionalGeneration)


def measure(path: Path, questions: Sequence[Question]) -> None:
    prediction = metrics.Prediction("a", (1.0, 2.0))
    reference = metrics.Reference("a", "v", (Span(1.0, 3.0),), 60.0)
    report = timetok.metrics.evaluate([prediction], [reference], protocol="charades-sta")
    assert_type(report, metrics.Report)
    assert_type(report.miou, float)
    assert_type(report.values, Mapping[str, float])
    assert_type(report.per_sample[0].windows, tuple[Span, ...])
    assert_type(metrics.parse_moments("<1.0>"), list[float])
    assert_type(metrics.union_iou([(1.0, 2.0)], [(1.0, 3.0)]), float)
    assert_type(read_records(path), Annotations)
    assert_type(event_loc(read_records(path).records[0], np.random.default_rng(0)), list[Turn])
    assert_type(read_questions(path, "lita-rtl"), list[Question])
    assert_type(evaluate_model(hub.load_localizer(), questions), metrics.Report)


def fail(path: Path) -> str:
    try:
        timetok.localize(path, "When?")
    except errors.VideoNotFoundError as error:
        missing: FileNotFoundError = error
        return str(missing.filename)
    except errors.TimetokError as error:
        return str(error)
    return timetok.__version__


def mistakes(path: Path, tt: TimeTokenizer, attached: VideoAdapter) -> None:
    """What a checker refuses: strict mode complains of an ignore that nothing needs."""
    timetok.locate(path, "When?")  # type: ignore[attr-defined]
    timetok.localize(path)  # type: ignore[call-arg]
    timetok.localize(path, "When?").span  # type: ignore[attr-defined]  # noqa: B018
    TimeGrid(100, marks="ends")  # type: ignore[arg-type]
    TimeGrid(100, "edges")  # type: ignore[call-arg]
    attached.prepare("<video>", video=[])  # type: ignore[call-arg]
    tt.spans([1, 2], 60.0, malformed="keep")  # type: ignore[arg-type]
    video.read_frames(path, backend="decord")  # type: ignore[arg-type]
    SlowFastPooler(slow_frames=4)  # type: ignore[call-arg]
    metrics.evaluate([], [], malformed="drop")  # type: ignore[arg-type]
    recipes.train  # type: ignore[attr-defined]  # noqa: B018  a submodule is imported by its own name
    kind: Literal["pyav", "torchcodec"] = "decord"  # type: ignore[assignment]
    assert kind
