"""Reinforcement on verifiable rewards: the bundled model, its own answers, the IoU of their spans.

Group-relative policy gradient, written out: GRPO (arXiv 2402.03300), on-policy, without a reference model, and without
its division by the spread of a group (arXiv 2503.20783). TRL's GRPOTrainer feeds its models text and images, and this
one reads features; the rewards are those one hands to TRL.

Run: python examples/grpo_shapes.py --train 40 --test 20 --steps 10    # defaults: docs/training.md, 20 minutes
"""

import argparse
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch
from tqdm import trange

from shapes_world.features import cache_features, draw_cut
from shapes_world.scenes import write_dataset
from shapes_world.tasks import TASKS
from timetok import localize
from timetok.lita.answer import Localizer
from timetok.recipes.evaluate import evaluate_model, read_questions
from timetok.recipes.records import Record
from timetok.recipes.rewards import temporal_iou, well_formed

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path(gettempdir()) / "grpo_shapes", help="clips and features")
parser.add_argument("--train", type=int, default=300, help="clips to learn from")
parser.add_argument("--test", type=int, default=300, help="clips to be scored on, before and after")
parser.add_argument("--steps", type=int, default=90)
parser.add_argument("--questions", type=int, default=24, help="a step")
parser.add_argument("--group", type=int, default=8, help="answers a question")
parser.add_argument("--learning-rate", type=float, default=1e-5)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

torch.manual_seed(options.seed)
localizer = Localizer.load()
model, processor = localizer.model, localizer.processor
tt, eos = processor.tt, processor.tokenizer.eos_token_id

scenes = write_dataset(options.out / "train", num_clips=options.train, split="train", seed=77, workers=2)
write_dataset(options.out / "test", num_clips=options.test, split="test", seed=77, workers=2)
encoder, transform = model.model.vision, processor.frame_transform
clips = cache_features(scenes, encoder, transform, options.out / "features", frames_per_clip=200)
questions = read_questions(options.out / "test")
before = evaluate_model(localizer, questions, protocol="lita-rtl-strict")

rng = np.random.default_rng(options.seed)
rewards = [temporal_iou(tt), well_formed(tt, min_spans=1)]
weights = [1.0, 0.0]  # answers to "why" questions go on in words: the format is watched, not rewarded
lm = [parameter.requires_grad_() for parameter in model.model.lm.parameters()]
optimizer = torch.optim.AdamW(lm, lr=options.learning_rate, weight_decay=0.0)
for _ in (progress := trange(options.steps, desc="steps")):
    asked = []
    while len(asked) < options.questions:
        features, duration, events = draw_cut(clips[rng.integers(len(clips))], rng, processor.num_frames)
        task = TASKS["event_loc" if rng.random() < 0.5 else "rtl"]
        for turn in task(Record("", "", None, duration, events, ""), rng):
            asked.append((features.float(), duration, processor.prompt(turn.question), tuple(turn.spans[0])))
    features, durations, prompts, spans = zip(*asked, strict=True)
    batch = processor.prompts(prompts, videos=features, durations=durations)
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": options.group}
    model.train(False)
    ids = model.generate(**batch, max_new_tokens=4, **sampling)  # a start and an end
    new = ids[:, batch["input_ids"].shape[1] :]
    ended = (new == eos).cumsum(1) - (new == eos).int() > 0  # what follows the end is padding
    columns = {"spans": np.repeat(spans, options.group, 0).tolist(), "duration": np.repeat(durations, options.group)}
    answers = [row[~end].tolist() for row, end in zip(new, ended, strict=True)]
    scores = torch.tensor([reward(completion_ids=answers, **columns) for reward in rewards])
    score = (torch.tensor(weights)[:, None] * scores).sum(0).view(-1, options.group)
    advantage = (score - score.mean(1, keepdim=True)).flatten()

    mask = torch.cat([batch["attention_mask"].repeat_interleave(options.group, 0), torch.ones_like(new)], 1)
    videos = batch["video_features"].repeat_interleave(options.group, 0)
    logits = model(ids, attention_mask=mask, video_features=videos).logits[:, -new.shape[1] - 1 : -1]
    chosen = logits.float().log_softmax(-1).gather(2, new[..., None])[..., 0]
    loss = -(advantage[:, None] * chosen * ~ended).sum() / (~ended).sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(lm, 1.0)
    optimizer.step()
    progress.set_postfix(iou=f"{scores[0].mean():.3f}", well_formed=f"{scores[1].mean():.2f}")

model.train(False)
after = evaluate_model(localizer, questions, protocol="lita-rtl-strict")
print(f"mIoU on {before.num_samples} questions: {before.miou:.4f} before, {after.miou:.4f} after {options.steps} steps")
print("an answer:", localize(questions[0].path, questions[0].text, localizer).text)
