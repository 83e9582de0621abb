"""One way to train every variant: a small language model on an aligned projector, by the HF Trainer.

Shapes: b batch, t frames, p patches, e vision width, d language width, n visual tokens, s sequence, m spans.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from ablations.grid import START, Regime, Variant
from ablations.reducers import Reduce, reducer_of
from ablations.tasks import TASKS
from numpy.random import Generator
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed

from shapes_world.features import CachedClip, draw_cut
from shapes_world.recipe import optimizer, shapes_tokenizer
from shapes_world.tasks import draw_turns, pair_of
from span_head import SpanHead
from timetok import SlowFastPooler, Span, VideoAdapter, embeddings
from timetok.lita import LitaProcessor
from timetok.losses import SoftTimeLoss
from timetok.recipes.records import Event, Record
from timetok.recipes.tasks import Mixture, Row, Task, Turn
from timetok.recipes.train import fit
from timetok.video import spread

PATCH_GRID, EYES = (4, 4), 96  # of the bundled model's encoder: patches, width
MOMENT = re.compile(r"<([0-9.]+)>")
SPAN = re.compile(rf"{MOMENT.pattern} {MOMENT.pattern}")
HEAD_TOKEN = "<t0>"  # whose hidden state a distribution head reads
FIFTHS = "one", "two", "three", "four", "five"  # a token each


class Marked(nn.Module):
    """A projector of tokens ``[... e+1]`` that know their time: each gets the embedding of its mark added.

    The last channel is the time as a share of the duration. The embedding is the language model's, which owns it.
    """

    def __init__(self, linear: nn.Linear, lm: nn.Module, time_token_ids: Sequence[int]) -> None:
        super().__init__()
        self.linear, self._owner, self.ids = linear, (lm,), torch.tensor(time_token_ids)

    def forward(self, tokens: Tensor) -> Tensor:
        marks = (tokens[..., -1] * (len(self.ids) - 1)).round().long()
        return self.linear(tokens[..., :-1]) + self._owner[0].get_input_embeddings()(self.ids.to(marks.device)[marks])


@dataclass(frozen=True)
class Learner:
    """An adapter, its processor, and what a variant adds to them."""

    variant: Variant
    adapter: VideoAdapter
    processor: LitaProcessor
    reduce: Reduce | None = None
    head: SpanHead | None = None

    def visual(self, features: Tensor, times_seconds: Tensor, duration: float) -> Tensor:
        """What the adapter is given of a video ``[t p e]``: the same, or the few tokens ``[n e+1]`` left of it."""
        if self.reduce is None:
            return features
        tokens, seconds = self.reduce(features, times_seconds)
        return torch.cat([tokens, (seconds / duration).clamp(0, 1).to(tokens).unsqueeze(-1)], -1)

    def state(self) -> dict[str, Tensor]:
        """All weights, by their names."""
        head = {} if self.head is None else self.head.state_dict(prefix="head.")
        return {name: weight.contiguous() for name, weight in {**self.adapter.state_dict(), **head}.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """What `state` gave."""
        if self.head is not None:
            named = {name.removeprefix("head."): each for name, each in weights.items() if name.startswith("head.")}
            self.head.load_state_dict(named)
        self.adapter.load_state_dict({name: each for name, each in weights.items() if not name.startswith("head.")})
        device = "cuda" if torch.cuda.is_available() else "cpu"  # where the Trainer leaves what it trained
        for module in (self.adapter, self.head):
            if module is not None:
                module.to(device).eval()


class Objective(nn.Module):
    """The loss of a batch, as the Trainer wants it: cross entropy over answers, and a head's where there is one."""

    def __init__(self, learner: Learner, sigma: float) -> None:
        super().__init__()
        self.adapter, self.head = learner.adapter, learner.head
        self.loss = SoftTimeLoss(learner.processor.tt.time_token_ids, sigma=sigma)

    def forward(
        self,
        labels: Tensor,
        places: Tensor | None = None,
        spans: Tensor | None = None,
        durations: Tensor | None = None,
        **batch: Any,
    ) -> dict[str, Tensor]:
        batch.pop("num_items_in_batch", None)
        output = self.adapter(**batch, output_hidden_states=self.head is not None)
        loss = self.loss(output, labels if places is None else (labels, places))
        if self.head is not None and len(spans):
            hidden = output.hidden_states[-1][labels == self.adapter.time_token_ids[0]]
            loss = loss + self.head.loss(self.head(hidden), spans, durations)
        return {"loss": loss}


@dataclass(frozen=True)
class Shown:
    """Source of a `Mixture`: questions about a cut of a clip, or about one of its frames, shown as long as a video."""

    learner: Learner
    clips: Sequence[CachedClip]
    frames: tuple[int, int]
    num_turns: int
    still_share: float

    def __call__(self, rng: Generator, rates: Mapping[str, float], tasks: Mapping[str, Task]) -> tuple[list[Turn], Row]:
        clip, num = (
            self.clips[int(rng.integers(len(self.clips)))],
            int(rng.integers(self.frames[0], self.frames[1] + 1)),
        )
        if rng.random() < self.still_share:
            features, duration, events, rates = *still(clip, rng, num), {"vidqa": 1.0}
        else:
            features, duration, events = draw_cut(clip, rng, num)
        times = torch.from_numpy(spread(round(duration * clip.fps), num) / clip.fps)
        turns = draw_turns(Record("", "", None, duration, events, ""), rng, self.num_turns, rates, tasks)
        shown = self.learner.visual(features.float(), times, duration)
        return turns, {"duration_seconds": duration, "video_features": shown}


def still(clip: CachedClip, rng: Generator, num_frames: int) -> tuple[Tensor, float, tuple[Event, ...]]:
    """A frame of a clip, repeated, and what it shows; as LITA shows pictures."""
    index = int(rng.integers(len(clip.features)))
    duration = num_frames / clip.fps
    seen = [event for event in clip.events if event.span.start <= index / clip.fps < event.span.end]
    events = tuple(event._replace(span=Span(0.0, duration)) for event in seen)
    return clip.features[index].expand(num_frames, -1, -1), duration, events


def build(variant: Variant, regime: Regime, clips: Sequence[CachedClip], seed: int) -> Learner:
    """A learner of random weights, but for the projector of the shared start; see `begin` for the others."""
    codec = "seconds" if variant.tokens == "seconds" else "index"
    marks = {"head": 2, "fifths": 2, "seconds": 100}.get(variant.tokens, variant.marks)
    layout = {} if variant.reducer else dict(variant.layout)
    told = {"num_time_tokens": marks, "codec": codec, "pooler": layout, "grid": PATCH_GRID, "lita_spacing": True}
    processor = LitaProcessor(shapes_tokenizer(), **told)
    set_seed(seed)
    tokenizer, width = processor.tokenizer, regime.width
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=regime.layers,
        num_attention_heads=regime.heads,
        tie_word_embeddings=True,
        initializer_range=0.08,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    lm, linear = LlamaForCausalLM(config), nn.Linear(EYES, width)
    if variant == START:
        align(linear, lm.get_input_embeddings().weight, tokenizer, clips)
    projector = Marked(linear, lm, processor.tt.time_token_ids) if variant.reducer else linear
    adapter = VideoAdapter(
        lm,
        processor.tt,
        vision_dim=EYES,
        pooler=SlowFastPooler(**layout),
        projector=projector,
        time_markers=variant.marked and not variant.reducer,
        temporal_rope=variant.rope,
        attention=variant.mask,
    )
    reduce = reducer_of(variant, clips) if variant.reducer else None
    return Learner(variant, adapter, processor, reduce, SpanHead(width) if variant.tokens == "head" else None)


@torch.no_grad()
def begin(learner: Learner, start: Mapping[str, Tensor]) -> None:
    """Give a learner the weights of the shared start, and rows to its tokens of time; random ones are as built."""
    own, words = learner.adapter.state_dict(), learner.processor.video_token_id  # what comes behind is of time
    for name, weight in start.items():
        target = own[name if name in own else name.replace("projector.", "projector.linear.")]
        if "embed_tokens" in name:
            target, weight = target[:words], weight[:words]
        target.copy_(weight)
    if learner.variant.rows != "random":
        embeddings.init_rows(learner.adapter.lm, learner.processor.tt.time_token_ids, how=learner.variant.rows)


def _in_fifths(text: str, duration: float) -> str:
    """Moments as words: the fifth of the video they lie in."""
    return MOMENT.sub(lambda found: FIFTHS[min(int(5 * float(found[1]) / duration), 4)], text)


@torch.no_grad()
def align(linear: nn.Linear, embeddings: Tensor, tokenizer: Any, clips: Sequence[CachedClip]) -> None:
    """Start a projector where an alignment on captions would lead to: a frame becomes the sum of what it shows.

    Ridge regression of the embeddings of the visible shapes' colours on means of frames.
    """
    frames, targets = [], []
    for clip in clips[:600]:
        for index in range(0, len(clip.features), 5):
            seen = [event for event in clip.events if event.span.start <= index / clip.fps < event.span.end]
            ids = [tokenizer.encode(f" {pair_of(event)[0]}")[0] for event in seen]
            frames.append(clip.features[index].float().mean(0))
            targets.append(embeddings[ids].sum(0))
    x, y = torch.stack(frames), torch.stack(targets)
    centred, wanted = x - x.mean(0), y - y.mean(0)
    spread_of_x = centred.T @ centred
    ridge = 1e-3 * spread_of_x.diag().mean() * torch.eye(len(spread_of_x))
    weight = torch.linalg.solve(spread_of_x + ridge, centred.T @ wanted)
    linear.weight.copy_(weight.T)
    linear.bias.copy_(y.mean(0) - x.mean(0) @ weight)


def collate(mixture: Mixture, learner: Learner, variant: Variant, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch, with the exact places of its moments for two-hot targets, or the spans that a head learns."""
    if variant.tokens == "fifths":
        rows = [
            {**row, "turns": [(q, _in_fifths(a, row["duration_seconds"])) for q, a in row["turns"]]} for row in rows
        ]
        return mixture.collate(rows)
    answers = [" ".join(answer for _, answer in row["turns"]) for row in rows]
    durations = [row["duration_seconds"] for row in rows]
    if learner.head is not None:
        found = [
            (*map(float, pair), d) for text, d in zip(answers, durations, strict=True) for pair in SPAN.findall(text)
        ]
        rows = [{**row, "turns": [(asked, SPAN.sub(HEAD_TOKEN, told)) for asked, told in row["turns"]]} for row in rows]
        table = torch.tensor(found).reshape(-1, 3)
        length = table[:, 2:]
        return mixture.collate(rows) | {"spans": table[:, :2].clamp(min=0).minimum(length), "durations": length[:, 0]}
    batch = mixture.collate(rows)
    if variant.loss == "two-hot":
        ids = learner.processor.tt.time_token_ids
        places = torch.full(batch["labels"].shape, torch.nan)
        for row, (text, duration) in enumerate(zip(answers, durations, strict=True)):
            timed = (batch["labels"][row] >= ids[0]) & (batch["labels"][row] <= ids[-1])
            seconds = torch.tensor([float(each) for each in MOMENT.findall(text)])
            places[row, timed] = seconds / duration * (len(ids) - 1)
        batch["places"] = places
    return batch


def train(
    learner: Learner, variant: Variant, regime: Regime, clips: Sequence[CachedClip], seed: int, folder: Path
) -> None:
    """Train a learner of a variant, in place; ``folder`` is the Trainer's."""
    objective = Objective(learner, {"plain": 0.0, "gaussian": 1.0, "two-hot": 0.0}[variant.loss])
    for number, stage in enumerate(regime.stages(variant)):
        for name, weight in objective.named_parameters():
            weight.requires_grad_(stage.trains == "all" or "projector" in name)
        arguments = TrainingArguments(
            str(folder / f"stage-{number}"),
            max_steps=stage.steps,
            per_device_train_batch_size=stage.batch,
            learning_rate=regime.learning_rate,
            adam_beta2=0.98,
            weight_decay=1e-2,
            warmup_steps=min(10, stage.steps // 4),
            lr_scheduler_type=stage.schedule,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        source = Shown(learner, clips, variant.frames, stage.turns, stage.stills)
        mixture = Mixture(
            sources={"shapes": source},
            tasks=TASKS,
            rates={"shapes": dict(stage.tasks)},
            processor=learner.processor,
            num_samples=stage.steps * stage.batch,
            seed=1000 * seed + number,
        )
        chosen = optimizer(objective.adapter, arguments, {"matrix_learning_rate": regime.matrix_learning_rate})
        if learner.head is not None:
            chosen.add_param_group(
                {"params": list(learner.head.parameters()), "lr": regime.learning_rate, "use_fallback": True}
            )
        with redirect_stdout(StringIO()):  # the Trainer's summary of every stage
            fit(
                objective,
                arguments,
                train_dataset=mixture,
                data_collator=lambda rows, mixture=mixture: collate(mixture, learner, variant, rows),
                optimizers=(chosen, None),
            )
    objective.eval()
