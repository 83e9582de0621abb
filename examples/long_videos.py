"""An hour of video, or a stream without end: what `timetok localize --search` does, resumed, drawn, on a stream.

python examples/long_videos.py film.mp4 "When does it rain?" --clip CLIP_FOLDER --model MODEL_FOLDER --index index
"""

import argparse
import json
from collections import deque
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from timetok import Span, localize_long
from timetok.errors import ArgumentError
from timetok.hub import AnyLocalizer, LongAnswer, load_localizer
from timetok.lita.answer import Answer, find_folder
from timetok.plots import save
from timetok.recipes.cache import claim, fingerprint
from timetok.recipes.evaluate import read_answers
from timetok.recipes.search import TwoTowers, embedded, fits, index
from timetok.video import Frames, Part


def remembering(localizer: AnyLocalizer, folder: str | Path, *, ask: Any = None, num_encoded: int = 8) -> Any:
    """A localizer, loaded from a folder, for many questions about long files: no window is looked at twice.

    It keeps each answer about a window in ``folder``, a line of JSON each, as it comes: the same questions go on where
    they were stopped, without reading what was answered. DataError: the folder is another model's. ``ask``, the same
    each time, answers in place of the model's own; the last ``num_encoded`` windows stay in memory for other questions.
    """
    file, model = Path(folder) / "answers-0-of-1.jsonl", localizer.model
    settings = {"model": fingerprint(find_folder(model.config.name_or_path)), "dtype": str(model.dtype)}
    claim(file.with_name("manifest.json"), {**settings, "num_frames": getattr(localizer, "num_frames", None)})
    known, of_file = read_answers(file.parent), lru_cache(None)(lambda path: fingerprint(Path(path)))
    encoded = lru_cache(num_encoded)(lambda part: localizer.encode(localizer.read(part)))
    with file.open("ab") as lines:
        lines.truncate(file.read_bytes().rfind(b"\n") + 1)  # a line that was torn

    def asked(kind: str, method: Any, part: Any, question: str, duration: float, how: dict[str, Any]) -> Answer:
        if not isinstance(part, Part):
            return method([part], [question], [duration], **how)[0]
        key = json.dumps([of_file(part.path), *part.span, question, kind, how])
        if key not in known:
            (known[key],) = method([encoded(part)], [question], [duration], **how)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"question_id": key, **asdict(known[key])}) + "\n")
        return known[key]

    def asking(kind: str) -> Any:
        method = ask or getattr(localizer, kind)
        return lambda parts, *about, **how: [
            asked(kind, method, *each, how) for each in zip(parts, *about, strict=True)
        ]

    twin: Any = copy(localizer)
    twin.read = lambda video: video if isinstance(video, Part) else localizer.read(video)  # when nothing is known of it
    twin.encode = lambda shown: shown if isinstance(shown, Part) else localizer.encode(shown)
    for kind in ("ask", "weigh"):
        if hasattr(localizer, kind):
            setattr(twin, kind, asking(kind))
    return twin


class Recent:
    """The last minutes of an endless stream, in bounded memory: frames and their embeddings."""

    def __init__(self, matcher: Any, *, seconds: float, every_seconds: float = 0.5) -> None:
        self.matcher, self.kept = matcher, deque(maxlen=max(round(seconds / every_seconds), 2))

    def take(self, shown: Iterable[tuple[float, Tensor]]) -> None:
        """Add seconds and frames, in order and ``every_seconds`` apart, until there are no more: see docs/long.md."""
        self.kept.extend(embedded(shown, self.matcher))

    def ask(self, question: str, model: Any = None, **options: Any) -> tuple[LongAnswer, float]:
        """An answer about what is kept, and the second of the stream from which its times count."""
        if len(self.kept) < 2:
            raise ArgumentError(f"kept: expected two frames at least, got {len(self.kept)}; call take() first")
        times, pixels, rows = zip(*self.kept, strict=True)
        seconds = torch.tensor(times, dtype=torch.float64) - times[0]
        frames = Frames(torch.stack(pixels), seconds, float(seconds[-1]) + float(seconds.diff().median()))
        scores = fits(seconds, torch.stack(rows), self.matcher, question)
        return localize_long(frames, question, model, scores=scores, **options), times[0]


def chart(
    answer: LongAnswer, scores: tuple[np.ndarray, np.ndarray], *, question: str, truth: Sequence[Span] = ()
) -> Figure:
    """Draw a search: how well the video fits, the windows that were tried, ever closer, and the spans."""
    figure = Figure((8.0, 4.2), 200, facecolor="white", layout="constrained")
    curve, tried = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
    curve.plot(np.asarray(scores[0]) / 60, scores[1], color="#0072B2", linewidth=0.8)
    curve.set(ylabel="fit", title=question)
    for row, (window, found) in enumerate(answer.tried):
        tried.plot([window.start / 60, window.end / 60], [row, row], color="#BBBBBB", linewidth=2.5)
        for span in found.spans[:1]:
            ends = [(window.start + end) / 60 for end in span]
            tried.plot(ends, [row, row], color="#0072B2", linewidth=2.5)
    for spans, colour in ((truth, "#E69F00"), (answer.spans, "#0072B2")):
        for span in spans:
            curve.axvspan(span.start / 60, span.end / 60, color=colour, alpha=0.35)
    tried.set(xlabel="minutes", ylabel="windows tried", xlim=(0, answer.duration_seconds / 60))
    tried.invert_yaxis()
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("questions", nargs="*")
    parser.add_argument("--clip", help="a folder with a CLIP or SigLIP; without one every window is asked about")
    parser.add_argument("--model", help="a downloaded video LM (default: the bundled one of shapes)")
    parser.add_argument("--index", default="runs/index", type=Path, help="a folder that keeps the embeddings")
    parser.add_argument("--answers", type=Path, help="a folder that keeps answers about windows, to go on from")
    parser.add_argument("--plot", type=Path, help="a figure of the search for the last question")
    options = parser.parse_args()
    if not options.questions:
        print(__doc__)
    localizer = load_localizer(options.model) if options.questions else None
    localizer = remembering(localizer, options.answers) if options.answers and localizer else localizer
    towers = TwoTowers(options.clip) if options.clip else None
    found = index(options.video, towers, options.index) if towers else None
    for question in options.questions:
        scores = fits(*found, towers, question) if found else None
        answer = localize_long(options.video, question, localizer, scores=scores)
        print(question)
        for span, confidence in zip(answer.spans, answer.confidences, strict=True):
            print(f"  {span.start:.2f} s to {span.end:.2f} s   (confidence {confidence:.2f})")
        print(f"  {len(answer.tried)} windows, {answer.num_tokens} tokens")
        if options.plot and scores:
            print(f"  {save(chart(answer, scores, question=question), options.plot)}")
