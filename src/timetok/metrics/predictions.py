"""Answers of other systems: read from their files, however they write moments."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timetok.codecs import ClockCodec, SecondsCodec
from timetok.errors import DataError, raised_as
from timetok.metrics.scoring import Prediction

MOMENT = re.compile(r"<(-?[0-9]+(?:\.[0-9]+)?)>")  # as `TimeTokenizer` writes moments and reads them
_UNIT = r"(?:s|secs?|seconds?)?"
_NUMBER = rf"(?<![A-Za-z0-9_.])([0-9]+(?:\.[0-9]+)?)(?=\s*{_UNIT}(?![A-Za-z0-9_]))(?![:.][0-9])"
_BETWEEN = r"(?:[-–—]|to|until|(?(1)and|(?!))|(?(2),|(?!)))"  # "and" and "," join other numbers, too
_RANGE = re.compile(rf"(between\s+)?([\[(]\s*)?{_NUMBER}\s*{_UNIT}\s*{_BETWEEN}\s*{_NUMBER}")
_IDS = ("question_id", "qid", "id")
_VIDEOS, _QUERIES = ("vid", "video", "video_id"), ("query", "question", "sentence")
_PREDICTED = ("pred_relevant_windows", "pred", "prediction", "response", "output")
_ANSWERS = (*_PREDICTED, "windows", "spans", "span", "timestamps", "timestamp", "answer", "text")  # may be annotations


def parse_moments(text: str) -> list[float]:
    """Seconds of the moments in a text: ``<12.3>``, else ``01:15``, ranges, two numbers with a point, any numbers.

    >>> parse_moments("2 men: from 12 to 45.5 seconds"), parse_moments("[3, 5]"), parse_moments("00:05 - 01:10")
    ([12.0, 45.5], [3.0, 5.0], [5.0, 70.0])
    """
    found = list(map(float, MOMENT.findall(text))) or ClockCodec().parse(text)
    found = found or [float(moment) for *_, start, end in _RANGE.findall(text) for moment in (start, end)]
    pointed = SecondsCodec().parse(text)
    return found or (pointed if len(pointed) > 1 else list(map(float, re.findall(_NUMBER, text))))


def read_predictions(
    path: str | os.PathLike[str], *, asked: Mapping[tuple[str, str], list[str]] | None = None
) -> tuple[list[Prediction], dict[str, list[str]]]:
    """Read what a system answered, and by kind the problems met: a list, or an object by id, in JSON; or JSON lines.

    An entry has an id (``question_id``, ``qid`` or ``id``), or a video, or its path, and a query that ``asked`` has ids
    of, given in turn; and ``[start, end]``, or a list of these, a score behind them or not, as in QVHighlights'
    ``pred_relevant_windows``; or a text, of which `parse_moments` reads the moments. Of the folder of an evaluation its
    answers are read. Ids become text. What has none of them, or no finite number, is listed, and stands for an answer
    without a span; an entry without an id is listed alone. DataError: the file cannot be read.
    """
    file, left = Path(path), {about: [*ids] for about, ids in (asked or {}).items()}
    with raised_as(DataError, f"{path}: not readable as JSON or JSON lines", OSError, ValueError, RecursionError):
        files, end = (sorted(file.glob("answers-*.jsonl")), 2) if file.is_dir() else ([file], 3)  # 2: no torn line
        text = "".join("".join(each.read_text(encoding="utf-8-sig").rpartition("\n")[:end]) for each in files)
        try:
            content: Any = json.loads(text)
        except json.JSONDecodeError:
            content = [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(content, dict) and not content.keys() & {*_IDS, *_VIDEOS}:
        content = [{**(row if isinstance(row, dict) else {"pred": row}), "id": key} for key, row in content.items()]
    predictions, problems = [], dict[str, list[str]]({"without an id": [], "unreadable": []})
    for k, entry in enumerate(content if isinstance(content, list) else [content]):
        given = entry if isinstance(entry, dict) else {}
        video, query = str(_first(given, _VIDEOS, "")), str(_first(given, _QUERIES, "")).strip()
        ids = next(filter(None, (left.get((v, query)) for v in (video, Path(video).name, Path(video).stem))), None)
        if (key := _first(given, _IDS)) is None and ids:
            key = ids.pop(0)
        if key is None:
            problems["without an id"].append(f"entry {k}")
            continue
        try:
            predictions.append(_prediction(str(key), given))
        except (TypeError, ValueError, OverflowError):  # a Prediction of NaN, text where a number should be
            problems["unreadable"].append(str(key))
            predictions.append(Prediction(str(key), ()))
    return predictions, problems


def _first(entry: Mapping[str, Any], names: Sequence[str], default: Any = None) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), default)


def _prediction(key: str, entry: Mapping[str, Any]) -> Prediction:
    if "times_seconds" in entry:  # a file of answers of ours
        return Prediction(key, tuple(entry["times_seconds"]), unfinished=entry.get("unfinished") is True)
    answer: Any = _first(entry, _ANSWERS, "" if {*_ANSWERS, "pred_saliency_scores"} & entry.keys() else 0)
    saliency = _first(entry, ("pred_saliency_scores",), ())
    if isinstance(answer, str):
        return Prediction(key, tuple(parse_moments(answer)), saliency=saliency)
    rows = answer if all(isinstance(row, list) for row in answer) else [answer]
    if not isinstance(answer, list) or any(len(row) not in (2, 3) for row in rows):
        raise ValueError("expected a start, an end and maybe a score")
    seconds = tuple(moment for row in rows for moment in row[:2])
    return Prediction(key, seconds, tuple(row[2] for row in rows if len(row) > 2), saliency)
