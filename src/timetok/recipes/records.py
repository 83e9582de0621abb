"""Annotation files in the layouts of their data sets, read into one kind of record; times stay seconds.

What does not follow its layout is a DataError. What follows it and cannot be so, such as a span that ends after its
video, is a problem: it is counted, and an argument says what becomes of it.
"""

import csv
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from reprlib import repr as short
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from timetok.errors import ArgumentError, DataError
from timetok.timegrid import Span

Bad: TypeAlias = Literal["raise", "drop", "clip"]
MOMENT = re.compile(r"<(-?[0-9]+(?:\.[0-9]+)?)>")  # what `TimeTokenizer.to_tokens` reads
_CHARADES = re.compile(r"(\S+)\s+(-?[0-9]*\.?[0-9]+)\s+(-?[0-9]*\.?[0-9]+)\s*##(.*)")
_ENDINGS = [
    "",
    ".mp4",
    ".mkv",
    ".webm",
    ".avi",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".flv",
    ".ts",
    ".wmv",
    ".gif",
    ".MP4",
    ".AVI",
    ".MOV",
]

_KEY, _TURNS = "{vid: …}", {"questions": "QA[].q", "answers": "QA[].a"}
_NAMED, _OWN_ID = {"name": _KEY, "vid": _KEY, "length": "duration"}, {"vid": "vid", "length": "duration"}
_SAID = {"human": "conversations[even].from", "gpt": "conversations[odd].from"}
LAYOUTS: dict[str, dict[str, str]] = {
    "captions": {**_NAMED, "spans": "timestamps[]", "texts": "sentences[]"},
    "youcook2": {**_NAMED, "spans": "annotations[].segment", "texts": "annotations[].sentence"},
    "timelens": {**_NAMED, "spans": "spans[]", "texts": "queries[]"},
    "charades": {"vid": "VID", "spans": "start end", "texts": "##sentence"},
    "qvhighlights": {**_OWN_ID, "name": "qid", "spans": "relevant_windows[]", "texts": "query"},
    "rtl": {**_NAMED, **_TURNS},
    "rtl-eval": {**_OWN_ID, "name": "question_id", "questions": "question", "answers": "answer"},
    "vidqa": {"vid": "video", **_TURNS},
    "llava": {"vid": "image", **_SAID, "questions": "conversations[even].value", "answers": "conversations[odd].value"},
    "spans": {"length": "duration", "spans": "spans[]"},
}
"""Where each layout keeps what a record needs: ``QA[].q`` is the q of each object in the list QA."""


class Event(NamedTuple):
    """What happens or is asked for, in words, and when; a query with several windows is several events."""

    span: Span
    text: str


@dataclass(frozen=True)
class Record:
    """What a file says of a video or an image, or of one question about it.

    ``name`` is unique in its file, ``vid`` what the file calls the video, ``media`` its file or folder of pictures,
    None where it is missing or was not looked for; the duration is None where nothing tells it. ``turns`` are questions
    and answers as written, moments as ``<12.34>``; each two of them are an event, too, whose text is the question.
    ``subset`` is YouCook2's, such as ``training``, or the task of a question.
    """

    name: str
    vid: str
    media: Path | None
    duration_seconds: float | None
    events: tuple[Event, ...]
    turns: tuple[tuple[str, str], ...]
    subset: str = ""


@dataclass(frozen=True)
class Annotations:
    """The records of a file, as ``bad`` left them, and by kind of problem where each stands; printed, a census."""

    layout: str
    records: tuple[Record, ...]
    problems: dict[str, list[str]]

    @property
    def census(self) -> dict[str, Any]:
        """How much there is of what; of the lengths of spans the shortest, the quarters and the longest."""
        events = [event for record in self.records for event in record.events]
        turns = sum(len(record.turns) for record in self.records)
        known = {record.vid or record.name: record.duration_seconds or 0.0 for record in self.records}
        unknown = sum(record.duration_seconds is None for record in self.records)
        lengths = np.quantile([event.span.duration_seconds for event in events] or [0.0], (0, 0.25, 0.5, 0.75, 1))
        counts = {"layout": self.layout, "records": len(self.records), "events": len(events), "turns": turns}
        times = {"hours": round(sum(known.values()) / 3600, 2), "without duration": unknown}
        return {**counts, **times, "span seconds": lengths.round(2).tolist(), "problems": self.problems}

    def __str__(self) -> str:
        *rows, (_, problems) = self.census.items()
        rows += [(kind, f"{len(where)}  {' '.join(where[:1])}") for kind, where in problems.items()]
        return "\n".join(f"{name:<18}{value}".rstrip() for name, value in rows)


def read_records(
    path: str | Path,
    *,
    layout: str | None = None,
    media: str | Path | None = None,
    durations: Mapping[str, float] | str | Path | None = None,
    bad: Bad = "raise",
) -> Annotations:
    """Read the events and questions of a file in one of `LAYOUTS`; without ``layout`` its first entry tells which.

    ``media`` is a folder to look in for a file called like each vid, with or without its ending, or a folder of
    pictures. ``durations`` are seconds by vid where the file has none, or a csv file with the columns id and length.
    ``bad`` is what becomes of missing media, spans outside the video, inverted or of no length, and empty text:
    ``"raise"`` refuses the first, ``"drop"`` leaves out the event or turn, and the record if its media is missing or
    nothing is left, ``"clip"`` moves spans into the video, swaps inverted ones and keeps the rest.

    Raises DataError where the file cannot be read or fits no layout or several, a field is missing or of a wrong type,
    lists differ in length, a name is given twice or leads out of its folder, or ``bad="raise"`` met a problem: it names
    file, entry and field. Raises ArgumentError where ``layout`` or ``bad`` is not one of its choices.

    Example::

        print(read_records("charades_sta_test.txt", durations="Charades_v1_test.csv", bad="clip"))
    """
    if layout not in (None, *LAYOUTS) or bad not in ("raise", "drop", "clip"):
        raise ArgumentError(f"expected layout in {[*LAYOUTS]}, bad in raise, drop, clip, got {layout!r}, {bad!r}")
    lengths = _read_lengths(Path(durations)) if isinstance(durations, str | Path) else durations or {}
    try:
        entries = _load(Path(path))
        reader = _Reader(layout or _sniff(entries), lengths, media, bad)
        records = tuple(filter(None, (reader.record(*entry) for entry in entries)))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Annotations(reader.layout, records, reader.problems)


class _Reader:
    """Turns the entries of one file into records, and counts the problems it meets."""

    def __init__(self, layout: str, lengths: Mapping[str, float], media: str | Path | None, bad: Bad) -> None:
        self.layout, self.lengths, self.media, self.bad = layout, lengths, media, bad
        kinds = ("missing media", "outside the video", "inverted", "zero length", "empty text")
        self.problems: dict[str, list[str]] = {kind: [] for kind in kinds}
        self.names: set[str] = set()

    def record(self, where: str, content: Any) -> Record | None:
        """The record of an entry; None where it is dropped."""
        fields = LAYOUTS[self.layout]
        has = {role: _column(where, content, field, role) for role, field in fields.items()}
        (vid,) = map(str, has.get("vid", [""]))
        (name,) = map(str, has.get("name", [f"{vid}#{len(self.names)}"]))
        if name in self.names:
            raise DataError(f"{where}: the name {name!r} is there twice")
        self.names.add(name)
        told = {"durations": self.lengths[vid]} if vid in self.lengths else None
        (length,) = has.get("length") or (_column(where, told, "durations", "length") if told else [0])
        duration = length or None

        spans, texts = has.get("spans", []), has.get("texts", [None])
        if "[]" not in fields.get("texts", ""):
            texts = texts * len(spans)  # one for all, or none
        questions, answers = has.get("questions", []), has.get("answers", [])
        if (len(spans), len(questions)) != (len(texts), len(answers)):
            raise DataError(f"{where}: expected lists of one length in {', '.join(fields.values())}")
        places = [f"{where}: {fields['spans'].replace('[]', f'[{k}]')}" for k in range(len(spans))]
        events = [*filter(None, map(self.event, places, spans, texts, [duration] * len(spans)))]
        turns = []
        for k, (asked, said) in enumerate(zip(questions, answers, strict=True)):
            question, answer, place = asked.strip(), said.strip(), f"{where}: turn {k}"
            if "human" in has:
                question = question.replace("<image>", "").strip()
            is_dropped = self.meets(place, {"empty text": not (question and answer)})
            moments = [float(moment) for moment in MOMENT.findall(answer)] if duration else []
            pairs = zip(moments[::2], moments[1::2], strict=False)
            found = [event for pair in pairs if (event := self.event(place, pair, question or None, duration))]
            if not is_dropped and len(found) == len(moments) // 2:
                turns.append((question, answer))
                events += found
        media = self.find(vid) if vid and self.media is not None else None
        is_dropped = self.meets(f"{where}: {vid!r}", {"missing media": self.media is not None and media is None})
        if is_dropped or (self.bad == "drop" and not events and not turns):
            return None
        subset = str(content.get("subset", content.get("task", "")))
        return Record(name, vid, media, duration, tuple(events), tuple(turns), subset)

    def event(self, where: str, pair: Sequence[float], text: str | None, duration: float | None) -> Event | None:
        """An event clipped to the video, of which None says that it needs no text; None where it is dropped."""
        low, high = (min(max(moment, 0.0), duration or math.inf) for moment in sorted(pair))
        wrong = {"outside the video": [low, high] != sorted(pair), "inverted": pair[0] > pair[1]}
        wrong |= {"zero length": low == high, "empty text": text is not None and not text.strip()}
        is_dropped = self.meets(f"{where}: {[*pair]} of {duration} s", wrong)
        return None if is_dropped else Event(Span(low, high), (text or "").strip())

    def meets(self, where: str, problems: Mapping[str, bool]) -> bool:
        """Note the problems that are so; whether what has them is dropped."""
        found = [kind for kind, is_so in problems.items() if is_so]
        if found and self.bad == "raise":
            raise DataError(f"{where}: {' and '.join(found)}; bad='clip' or bad='drop' reads on")
        for kind in found:
            self.problems[kind].append(where)
        return bool(found) and self.bad == "drop"

    def find(self, vid: str) -> Path | None:
        """The file that a vid names, with or without its ending, or a folder that is not empty."""
        paths = [f"{Path(str(self.media), vid)}{ending}" for ending in _ENDINGS]
        found = (path for path in paths if os.path.isfile(path) or (os.path.isdir(path) and os.listdir(path)))
        return next(map(Path, found), None)


def _stays(name: Any) -> bool:
    path = PureWindowsPath(str(name))  # to which both slashes are one
    return type(name) in (int, str) and bool(path.parts) and not path.anchor and ".." not in path.parts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12  # NaN is not


_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a name that stays in its folder", _stays),
    "vid": ("a name that stays in its folder", _stays),
    "length": ("a positive number", lambda value: _is_number(value) and value > 0),
    "spans": ("[start, end]", lambda value: isinstance(value, list) and [*map(_is_number, value)] == [True, True]),
    "human": ("human", lambda value: value == "human"),
    "gpt": ("gpt", lambda value: value == "gpt"),
}


def _column(where: str, content: Any, spec: str, role: str) -> list[Any]:
    """The values of a field as in `LAYOUTS`, each of the kind that its role asks for."""
    field, has_list, rest = spec.partition("[")
    if not isinstance(content, dict) or field not in content:
        raise DataError(
            f"{where}: field {field!r} is missing"
            if isinstance(content, dict)
            else f"{where}: expected an object, got {short(content)}"
        )
    values, (part, _, inner) = content[field] if has_list else [content[field]], rest.partition("]")
    if not isinstance(values, list):
        raise DataError(f"{where}: {field}: expected a list, got {short(values)}")
    found = [*enumerate(values)][{"even": slice(0, None, 2), "odd": slice(1, None, 2)}.get(part, slice(None))]
    if inner:
        return [_column(f"{where}: {field}[{k}]", each, inner[1:], role)[0] for k, each in found]
    expected, fits = _CHECKS.get(role, ("text", lambda value: isinstance(value, str)))
    for k, value in found:
        if not fits(value):
            place = f"{field}[{k}]" if has_list else field
            raise DataError(f"{where}: {place}: expected {expected}, got {short(value)}")
    return values


def _load(path: Path) -> list[tuple[str, Any]]:
    """Where each entry of a file stands, and the entry; what an object calls it is its field `_KEY`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] not in ("{", "["):
            lines = enumerate(map(str.strip, text.split("\n")), start=1)
            return [(f"line {k}", _read_line(line)) for k, line in lines if line]
        if re.match(r"\s*\{.*\}\s*\n\s*\{", text):  # JSON lines
            text = "[" + ",\n".join(filter(str.strip, text.split("\n"))) + "]"
        content: Any = json.loads(text, parse_constant=int, object_pairs_hook=_unique)  # NaN is no int
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"not readable as JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("database"), dict):
        content = content["database"]  # YouCook2
    if isinstance(content, dict) and any(isinstance(each, dict) for each in content.values()):
        return [(repr(key), {**each, _KEY: key} if isinstance(each, dict) else each) for key, each in content.items()]
    return [(f"entry {k}", each) for k, each in enumerate(content if isinstance(content, list) else [content])]


def _read_line(line: str) -> Any:
    if not (match := _CHARADES.fullmatch(line)):
        return line
    vid, start, end, sentence = match.groups()
    return {"VID": vid, "start end": [float(start), float(end)], "##sentence": sentence}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"a name is there twice in {short(pairs)}")
    return found


def _sniff(entries: Sequence[tuple[str, Any]]) -> str:
    """The layout of which the first entry has the most fields and lacks the fewest."""
    first = entries[0][1] if entries else None
    has = set(first) if isinstance(first, dict) else set()
    needs = {name: {field.partition("[")[0] for field in fields.values()} for name, fields in LAYOUTS.items()}
    scores = {name: (2 * len(fields & has) - len(fields), len(fields)) for name, fields in needs.items()}
    best = [name for name, score in scores.items() if score == max(scores.values()) >= (0, 0)]
    if len(best) != 1:
        known = "; ".join(f"{name}: {', '.join(dict.fromkeys(fields.values()))}" for name, fields in LAYOUTS.items())
        raise DataError(f"expected one of the layouts {known}; got a first entry {short(first)}")
    return best[0]


def _read_lengths(path: Path) -> dict[str, float]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {row["id"]: float(row["length"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"durations: {path}: expected a csv file with columns id and length: {error!r}") from error
