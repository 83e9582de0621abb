"""A LITA scored in continuous time: the span posterior in place of what it says.

python examples/continuous_time.py [MODEL DATA PROTOCOL]        # by default the bundled model on its own clip
"""

import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from timetok.decoding import span_distribution
from timetok.lita.answer import Answer, Localizer, load_sample
from timetok.recipes.evaluate import evaluate_model, read_questions


def weigh(localizer: Localizer, videos: Sequence[Any], questions: Sequence[str], durations: Sequence[float]) -> list:
    """As ``localizer.ask``, answers of one span alone: that of the highest expected IoU, moved between the marks.

    Its confidence is the IoU to be expected. The model has time tokens, and writes a space before each.
    """
    tt, processor = localizer.tt, localizer.processor
    written = tt.tokenizer.encode(" " + " ".join(tt.codec.tokens[:2]), add_special_tokens=False)
    first, second = (written.index(token) for token in tt.time_token_ids[:2])
    batch = processor.prompts(list(map(processor.prompt, questions)), videos=videos, trusted=False)
    lead = torch.tensor(written[:first]).long().expand(len(questions), -1)
    batch["input_ids"] = torch.cat([batch["input_ids"], lead], 1)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(lead)], 1)
    options = {"durations": durations, "between_ids": written[first + 1 : second]}
    answers = []
    for found in span_distribution(localizer.model, batch.to(localizer.model.device), tt, **options):
        best, length = found.best(), found.duration_seconds
        span, ends = found.refined(best.span), tt.grid.encode([*best.span], length)
        likely = float(found.joint.sum(1)[ends[0]]), float(found.joint.sum(0)[ends[1]])
        text = f"<{span.start:.2f}> <{span.end:.2f}>"
        answers.append(Answer(text, (span,), (best.confidence,), (span.start, span.end), length, likely))
    return answers


def main(model: str | None, data: str | Path, protocol: str) -> None:
    localizer, questions = Localizer.load(model), read_questions(data, protocol)
    print(evaluate_model(localizer, questions, protocol=protocol))
    print("in continuous time:")
    print(evaluate_model(localizer, questions, protocol=protocol, ask=partial(weigh, localizer)))


if __name__ == "__main__":
    if len(sys.argv) > 3:
        main(*sys.argv[1:4])
    else:
        with TemporaryDirectory() as folder:
            clip, question, span = load_sample()
            (Path(folder) / "videos").mkdir()
            shutil.copy(clip, Path(folder) / "videos" / "clip.mp4")
            entry = {"vid": "clip", "question": question, "question_id": 0, "answer": "<{}> <{}>".format(*span)}
            duration = Localizer.load().read(clip).duration_seconds
            (Path(folder) / "rtl.json").write_text(json.dumps([{**entry, "duration": duration}]))
            main(None, folder, "lita-rtl")
