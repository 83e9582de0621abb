"""Questions of a data set put to a model, and scored under a named protocol."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from timetok.atomic import read_json
from timetok.errors import DataError
from timetok.hub import AnyLocalizer, read_ahead
from timetok.lita.answer import Answer
from timetok.metrics import Prediction, Reference, Report, evaluate
from timetok.timegrid import Span

Encoded: TypeAlias = dict[Path, tuple[Any, float]]
_FILES = ("event_loc.json", "rtl.json")
_NO_VIDEO = {".json", ".srt", ".vtt", ".txt", ".jpg", ".png"}
_MOMENT = re.compile(r"<(\d+(?:\.\d+)?)>")


@dataclass(frozen=True)
class Question:
    """One question of an evaluation file: what is asked about which video, and the annotated answer."""

    text: str
    path: Path
    reference: Reference


def read_questions(data: str | Path) -> list[Question]:
    """Questions in LITA's evaluation layout: a JSON file ``[{vid, question, answer, duration, question_id}]``.

    Its ``videos`` folder lies beside it; of a folder, the files named after an evaluated task are read. Raises
    DataError where there is none, or an entry does not follow the schema; names file, entry and field.
    """
    path = Path(data)
    paths = [path] if path.is_file() else [path / name for name in _FILES if (path / name).is_file()]
    entries = [
        (path, k, entry) for path in paths for k, entry in enumerate(read_json(path, list, "a list of questions"))
    ]
    if not entries:
        raise DataError(f"data: expected a JSON file of questions or a folder with {_FILES}, got {str(path)!r}")
    return [_read_entry(*entry) for entry in entries]


def _read_entry(path: Path, index: int, entry: Any) -> Question:
    where = f"{path.name}: entry {index}"
    try:
        moments = [float(text) for text in _MOMENT.findall(entry["answer"])]
        duration, vid = float(entry["duration"]), str(entry["vid"])
        if len(moments) < 2 or not str(entry["question"] or "").strip():
            raise DataError("expected a question, and an answer with a start and an end such as <1.50> <4.00>")
        question_id, task = f"{path.stem}/{entry['question_id']}", entry.get("task", path.stem)
        reference = Reference(question_id, vid, Span(*sorted(moments[:2])), duration, task)
        beside = (path.parent / "videos").glob(f"{escape(vid)}.*")
        videos = sorted(file for file in beside if file.suffix not in _NO_VIDEO)
        if not videos or Path(vid).name != vid:
            raise DataError(f"vid {vid!r} has no file in videos/")
        return Question(str(entry["question"]), videos[0], reference)
    except KeyError as error:
        raise DataError(f"{where}: field {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error


def encode_videos(localizer: AnyLocalizer, questions: Sequence[Question]) -> Encoded:
    """What the localizer encodes and the seconds of every video asked about, each once."""
    paths = list(dict.fromkeys(question.path for question in questions))
    videos: Encoded = {}
    for path, coming in zip(tqdm(paths, desc="videos", leave=False), read_ahead(localizer, paths), strict=True):
        frames = coming.result()
        videos[path] = localizer.encode(frames), frames.duration_seconds
    return videos


def ask_all(
    localizer: AnyLocalizer, questions: Sequence[Question], videos: Encoded | None = None, *, batch_size: int = 32
) -> list[Answer]:
    """One answer a question, in order; ``videos`` of ``encode_videos``, or None for those of one batch at a time."""
    answers: list[Answer] = []
    for start in tqdm(range(0, len(questions), batch_size), desc="batches of questions"):
        group = questions[start : start + batch_size]
        known = encode_videos(localizer, group) if videos is None else videos
        features, durations = zip(*(known[question.path] for question in group), strict=True)
        answers += localizer.ask(features, [question.text for question in group], durations)
    return answers


def evaluate_model(
    localizer: AnyLocalizer, questions: Sequence[Question], *, protocol: str = "lita-rtl", batch_size: int = 32
) -> Report:
    """Put questions to a model, ``batch_size`` at once, and score its answers under a name of ``PROTOCOLS``."""
    ordered = sorted(questions, key=lambda question: question.path)  # those about one video side by side
    answers = ask_all(localizer, ordered, batch_size=batch_size)
    return score(ordered, [answer.times_seconds for answer in answers], protocol=protocol)


def score(questions: Sequence[Question], times: Sequence[Sequence[float]], *, protocol: str = "lita-rtl") -> Report:
    """Score moments found by whatever means: one sequence of seconds a question."""
    references = [question.reference for question in questions]
    answered = zip(references, times, strict=True)
    return evaluate([Prediction(one.question_id, tuple(seconds)) for one, seconds in answered], references, protocol)
