"""Questions of a data set put to a model, and scored under a named protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from timetok.errors import DataError
from timetok.hub import AnyLocalizer, read_ahead
from timetok.lita.answer import Answer
from timetok.metrics import Prediction, Reference, Report, evaluate
from timetok.recipes.records import MOMENT, read_records
from timetok.timegrid import Span

Encoded: TypeAlias = dict[Path, tuple[Any, float]]
_FILES = ("event_loc.json", "rtl.json")


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
    questions = []
    for file in paths:
        found = read_records(file, layout="rtl-eval", media=file.parent / "videos", bad="clip")
        for k, record in enumerate(found.records):
            ((text, _, answer),) = record.events
            moments = sorted(map(float, MOMENT.findall(answer)[:2]))  # not clipped, as predictions are
            if len(moments) < 2 or not text or record.media is None or record.duration_seconds is None:
                expected = "a question, an answer with a start and an end such as <1.50> <4.00>, and a file in videos/"
                raise DataError(f"{file.name}: entry {k}: expected {expected}, got {record}")
            name, task = f"{file.stem}/{record.name}", record.subset or file.stem
            reference = Reference(name, record.vid, Span(*moments), record.duration_seconds, task)
            questions.append(Question(text, record.media, reference))
    if not questions:
        raise DataError(f"data: expected a JSON file of questions or a folder with {_FILES}, got {str(path)!r}")
    return questions


def encode_videos(localizer: AnyLocalizer, questions: Sequence[Question]) -> Encoded:
    """What the localizer encodes and the seconds of every video asked about, each once."""
    paths = list(dict.fromkeys(question.path for question in questions))
    coming = zip(tqdm(paths, desc="videos", leave=False), read_ahead(localizer, paths), strict=True)
    read = ((path, frames.result()) for path, frames in coming)
    return {path: (localizer.encode(frames), frames.duration_seconds) for path, frames in read}


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
    found = [Prediction(one.question_id, tuple(each)) for one, each in zip(references, times, strict=True)]
    return evaluate(found, references, protocol)
