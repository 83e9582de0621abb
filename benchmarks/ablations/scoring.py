"""A learner's answers to the questions about fresh clips, what it is sure of, and how good that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from ablations.learner import HEAD_TOKEN, Learner
from ablations.tasks import TASKS
from torch import Tensor

from shapes_world.features import CachedClip
from timetok import Span, TimeGrid
from timetok.decoding import SpanPosterior, span_distribution
from timetok.metrics import iou
from timetok.recipes.records import Record
from timetok.video import spread

TASKS_ASKED = ("event_loc", "rtl")
BATCH = 50


@dataclass(frozen=True)
class Question:
    """One question about a whole clip, of which the learner is shown some frames."""

    task: str
    text: str
    truth: Span
    features: Tensor  # as the learner's adapter takes them
    duration_seconds: float


class Answer(NamedTuple):
    """None where no two moments were told; how sure, from 0 to 1."""

    span: Span | None
    confidence: float


def questions(learner: Learner, clips: Sequence[CachedClip], num_frames: int) -> list[Question]:
    """One of each task about each clip, the same for every learner."""
    found = []
    for number, clip in enumerate(clips):
        index = spread(len(clip.features), num_frames)
        times, duration = torch.from_numpy(index / clip.fps), len(clip.features) / clip.fps
        shown = learner.visual(clip.features[torch.from_numpy(index)].float(), times, duration)
        record = Record("", "", None, duration, clip.events, "")
        for task in TASKS_ASKED:
            for turn in TASKS[task](record, np.random.default_rng(number)):
                found.append(Question(task, turn.question, turn.spans[0], shown, duration))
    return found


def prompts(learner: Learner, asked: Sequence[Question], lead: Sequence[int] = ()) -> dict:
    """A batch of prompts, with the same ids behind each."""
    processor = learner.processor
    texts = [processor.prompt(each.text, duration_seconds=each.duration_seconds) for each in asked]
    batch = dict(processor.prompts(texts, videos=[each.features for each in asked]))
    ids = batch["input_ids"]
    behind = ids.new_tensor(list(lead)).long().expand(len(ids), -1)
    batch["input_ids"] = torch.cat([ids, behind], 1)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(behind)], 1)
    device = learner.adapter.lm.device
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


@torch.inference_mode()
def greedy(learner: Learner, asked: Sequence[Question]) -> list[Answer]:
    """What is written first; sure is the probability of what was written up to the second moment."""
    batch, tt = prompts(learner, asked), learner.processor.tt
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    length = 6 if tt.time_token_ids else 14
    output = learner.adapter.generate(**batch, max_new_tokens=length, **options)
    new = output.sequences[:, batch["input_ids"].shape[1] :]
    log_probs = torch.stack(output.logits, 1).log_softmax(-1).gather(2, new.unsqueeze(-1)).squeeze(-1).cpu()
    answers = []
    for row, sure, each in zip(new.cpu(), log_probs, asked, strict=True):
        moments = [min(moment, each.duration_seconds) for moment in tt.times(row, each.duration_seconds)[:2]]
        stop = _stop(row.tolist(), learner)
        span = Span(*sorted(moments)) if len(moments) == 2 else None
        answers.append(Answer(span, float(sure[:stop].sum().exp())))
    return answers


def _stop(ids: Sequence[int], learner: Learner) -> int:
    """Number of ids up to the second time token, or, where there are none, to the end of the answer."""
    timed = set(learner.processor.tt.time_token_ids)
    places = [place for place, each in enumerate(ids) if each in timed]
    if len(places) > 1:
        return places[1] + 1
    eos = learner.processor.tokenizer.eos_token_id
    return ids.index(eos) if eos in ids else len(ids)


def posterior(learner: Learner, asked: Sequence[Question]) -> list[Answer]:
    """The span of the highest expected IoU under the span posterior; sure is that IoU."""
    tt = learner.processor.tt
    options = {"top_starts": min(40, len(tt.time_token_ids))}  # nothing stands between, with LITA's spacing
    durations = [each.duration_seconds for each in asked]
    found = span_distribution(learner.adapter, prompts(learner, asked), tt, durations=durations, **options)
    return [Answer(*coarse(each).best()) for each in found]


def coarse(found: SpanPosterior, num: int = 50) -> SpanPosterior:
    """The same belief between at most ``num`` marks: all pairs of spans are compared, T**4 of them."""
    count = found.grid.num_tokens
    if count <= num:
        return found
    place = np.zeros((count, num))
    place[np.arange(count), np.rint(np.arange(count) / (count - 1) * (num - 1)).astype(int)] = 1.0
    return SpanPosterior(place.T @ found.joint @ place, found.covered, TimeGrid(num), found.duration_seconds)


@torch.inference_mode()
def by_head(learner: Learner, asked: Sequence[Question]) -> list[Answer]:
    """The means of a head's two distributions; sure is the expected IoU if these were independent."""
    tt, head = learner.processor.tt, learner.head
    lead = tt.tokenizer.encode(HEAD_TOKEN, add_special_tokens=False)
    batch = prompts(learner, asked, lead)
    hidden = learner.adapter(**batch, output_hidden_states=True).hidden_states[-1][:, -1]
    logits = head(hidden)
    durations = logits.new_tensor([each.duration_seconds for each in asked])
    spans = head.seconds(logits, durations).sort(-1).values.tolist()
    shares = logits.double().softmax(-1).cpu().numpy()
    places = head.places.cpu().numpy()
    return [Answer(Span(*span), _expected(span, pair, places * each.duration_seconds)) for span, pair, each in
            zip(spans, shares, asked, strict=True)]  # fmt: skip


def _expected(span: Sequence[float], shares: np.ndarray, seconds: np.ndarray) -> float:
    starts, ends = np.triu_indices(len(seconds))
    weights = shares[0][starts] * shares[1][ends]
    truths = np.stack([seconds[starts], seconds[ends]], 1)
    return float(iou(np.array(span), truths) @ weights / weights.sum())


WAYS: dict[str, Callable[[Learner, Sequence[Question]], list[Answer]]] = {
    "greedy": greedy,
    "posterior": posterior,
    "head": by_head,
}


def ways_of(learner: Learner) -> list[str]:
    """The span posterior needs index tokens, and goes on from a cache, which positions and masks of frames forbid."""
    if learner.head is not None:
        return ["head"]
    variant = learner.variant
    plain = variant.rope is None and variant.mask == "causal"
    return ["greedy", "posterior"] if variant.tokens == "index" and plain else ["greedy"]


def score(learner: Learner, clips: Sequence[CachedClip], num_frames: int) -> dict[str, dict[str, Any]]:
    """Numbers of each way of answering."""
    asked, found = questions(learner, clips, num_frames), {}
    tokens = {"visual_tokens": float(np.mean([_tokens(learner, each) for each in asked]))}
    for way in ways_of(learner):
        answers = [each for k in range(0, len(asked), BATCH) for each in WAYS[way](learner, asked[k : k + BATCH])]
        found[way] = numbers(asked, answers) | tokens
    return found


def calibration_error(confidences: np.ndarray, truths: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and IoU over equally wide bins, weighted by size."""
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    return float(sum(abs((confidences - truths)[place == k].sum()) for k in range(bins)) / len(truths))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, ties in order of appearance."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def numbers(asked: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """What a table shows of answers."""
    reached = np.array([iou(a.span, q.truth) if a.span else 0.0 for a, q in zip(answers, asked, strict=True)])
    sure, located = np.array([a.confidence for a in answers]), np.array([q.task == "event_loc" for q in asked])
    return {
        "miou": reached[located].mean(),
        "r1_at_05": (reached[located] >= 0.5).mean(),
        "rtl_miou": reached[~located].mean() if (~located).any() else np.nan,
        "parsed": np.mean([a.span is not None for a in answers]),
        "confidence": sure[located].mean(),
        "calibration_error": calibration_error(sure[located], reached[located]),
        "rank_correlation": rank_correlation(sure[located], reached[located]),
        "questions": int(located.sum()),
    }


def whole_video(asked: Sequence[Question]) -> list[Answer]:
    """What needs no model."""
    return [Answer(Span(0.0, each.duration_seconds), 1.0) for each in asked]


def _tokens(learner: Learner, question: Question) -> int:
    shape = question.features.shape
    return shape[0] if len(shape) == 2 else learner.adapter.pooler.num_tokens(num_frames=shape[0], grid=(4, 4))
