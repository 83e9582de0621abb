"""Annotation files in the layouts of their data sets, read into one kind of record, and what their spans need."""

import csv
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from timetok.codecs import IndexCodec
from timetok.errors import ArgumentError, DataError, raised_as
from timetok.metrics import Ceiling, codec_ceiling
from timetok.metrics.predictions import MOMENT
from timetok.timegrid import Span, TimeGrid

Bad: TypeAlias = Literal["raise", "drop", "clip", "keep"]
_CHARADES = re.compile(r"(\S+)\s+(-?[0-9]*\.?[0-9]+)\s+(-?[0-9]*\.?[0-9]+)\s*##(.*)")
_NO_VIDEO = {".json", ".srt", ".vtt", ".txt", ".csv", ".jpg", ".jpeg", ".png", ".gif", ".mp3", ".m4a", ".wav"}
LAYOUTS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("layouts.toml").read_text(encoding="utf-8"))
"""Where each layout keeps what a record needs."""
SIZES = (10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10_000)  # time tokens that a plan tries


class Event(NamedTuple):
    """A caption, a query (one event for each of its windows) or a question, and when it holds: None where nothing says.

    The answer to a question is as written, with moments such as ``<12.34>``, of which the first two are the span.
    """

    text: str
    span: Span | None
    answer: str = ""


@dataclass(frozen=True)
class Record:
    """What a file says of a video or an image, or of one query about it.

    ``name`` is unique in its file, ``vid`` what that calls the video, ``media`` its file or folder of pictures; it and
    the duration are None where not known. ``subset`` is YouCook2's, such as ``training``, or the task of a question.
    """

    name: str
    vid: str
    media: Path | None
    duration_seconds: float | None
    events: tuple[Event, ...]
    subset: str


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
        lengths = [event.span.duration_seconds for event in events if event.span]
        known = {record.vid or record.name: record.duration_seconds or 0.0 for record in self.records}
        rows = {"layout": self.layout, "records": len(self.records), "videos": len(known), "events": len(events)}
        rows |= {"spans": len(lengths), "answers": sum(event.answer != "" for event in events)}
        rows |= {"hours": round(sum(known.values()) / 3600, 2), "without duration": [*known.values()].count(0.0)}
        quarters = np.quantile(lengths or [0.0], (0, 0.25, 0.5, 0.75, 1)).round(2).tolist()
        return {**rows, "span seconds": quarters, "problems": self.problems}

    def __str__(self) -> str:
        *rows, (_, problems) = self.census.items()
        rows += [(kind, f"{len(where)}  {' '.join(where[:1])}") for kind, where in problems.items()]
        return "\n".join(f"{name:<18}{value}".rstrip() for name, value in rows)


def read_records(
    path: str | Path, *, layout: str | None = None, media: str | Path | None = None,
    durations: Mapping[str, float] | str | Path | None = None, bad: Bad = "raise",
) -> Annotations:  # fmt: skip
    """Read a file in one of `LAYOUTS`, JSON or JSON lines; without ``layout`` its first entry tells which.

    ``media`` is a folder with a file called like each vid, with or without its ending, or a folder of pictures;
    ``durations`` are seconds of videos for Charades-STA: vid → seconds, or a csv file with the columns id and length.
    ``bad`` says what becomes of spans outside the video, inverted or of no length, of empty text and missing media:
    ``"raise"`` refuses all but those of no length, ``"drop"`` leaves out the event, and a record that has none left or
    no media, ``"clip"`` moves spans into the video, swaps inverted ones and keeps the rest, ``"keep"`` swaps alone.

    Raises DataError, which names file, entry and field, where one cannot be read, does not follow the layout, or has a
    problem under ``bad="raise"``; ArgumentError where ``layout`` or ``bad`` is not one of its choices.
    """
    if layout not in (None, *LAYOUTS) or bad not in get_args(Bad):
        raise ArgumentError(f"expected layout in {[*LAYOUTS]}, bad in {get_args(Bad)}, got {layout!r}, {bad!r}")
    if isinstance(durations, str | Path):
        told = f"durations: {Path(durations)}: expected a csv file with columns id and length"
        with raised_as(DataError, told, OSError, ValueError, KeyError, TypeError, csv.Error):
            rows = csv.DictReader(Path(durations).read_text(encoding="utf-8-sig").split("\n"))
            durations = {row["id"]: float(row["length"]) for row in rows}
    with raised_as(DataError, f"{path}", DataError):
        entries = load_entries(Path(path), durations or {})
        reader = _Reader(layout or _sniff(entries[0][1] if entries else None), media, bad)
        for entry in entries:
            reader.add(*entry)
    return Annotations(reader.layout, tuple(filter(None, reader.records.values())), reader.problems)


@dataclass(frozen=True)
class Plan:
    """What each number of time tokens allows: T → its ceiling, for a recall wanted at an IoU threshold."""

    ceilings: dict[int, Ceiling]
    level: float
    wanted: float

    @property
    def enough(self) -> int | None:
        """The smallest T from which on every T tried reaches the target; None if the largest does not."""
        short = [size for size, ceiling in self.ceilings.items() if ceiling.recall[self.level] < self.wanted]
        return min((size for size in self.ceilings if size > max(short, default=0)), default=None)

    def __str__(self) -> str:
        levels = list(next(iter(self.ceilings.values())).recall)
        rows = [f"{'T':>6}  {'mIoU':>6}  " + "  ".join(f"R@{level:g}".rjust(6) for level in levels) + "  no length"]
        for size, ceiling in self.ceilings.items():
            recalls = "  ".join(f"{ceiling.recall[level]:6.3f}" for level in levels)
            rows.append(f"{size:>6}  {ceiling.miou:6.3f}  {recalls}  {ceiling.zero_length:9.3f}")
        target = f"a recall of {self.wanted:g} at IoU {self.level:g}"
        found = f"T = {self.enough} reaches {target}" if self.enough else f"none of these reaches {target}"
        return "\n".join([*rows, f"{found}, at best, on {ceiling.num_spans} spans"])


def plan(annotations: Annotations, *, target: str) -> Plan:
    """Try every T of ``SIZES`` on LITA's grid. ``target`` is a recall at an IoU threshold, such as ``0.99@0.7``.

    ArgumentError is raised where they are not above 0 and at most 1, DataError where spans or durations are missing.
    """
    with raised_as(ArgumentError, f"target: expected RECALL@IOU, such as 0.99@0.7, got {target!r}", ValueError):
        wanted, level = map(float, target.split("@"))
        if not (0 < wanted <= 1 and 0 < level <= 1):
            raise ValueError("each is above 0 and at most 1")
    pairs = [(event.span, record.duration_seconds) for record in annotations.records for event in record.events]
    known = [(span, duration) for span, duration in pairs if span and duration]
    if not known or len(known) < annotations.census["spans"]:
        raise DataError(f"annotations: {len(known)} of {len(pairs)} events have a span and a duration; see --durations")
    spans, durations = zip(*known, strict=True)
    levels = sorted({0.5, 0.7, 0.9, level})
    ceilings = {size: codec_ceiling(IndexCodec(TimeGrid(size)), spans, durations, thresholds=levels) for size in SIZES}
    return Plan(ceilings, level, wanted)


class _Reader:
    """Turns the entries of one file into records, and notes the problems it meets."""

    def __init__(self, layout: str, media: str | Path | None, bad: Bad) -> None:
        self.layout, self.media, self.bad = layout, media, bad
        kinds = ("missing media", "outside the video", "inverted", "zero length", "empty text")
        self.problems: dict[str, list[str]] = {kind: [] for kind in kinds}
        self.records: dict[str, Record | None] = {}
        self.listed: dict[Path, dict[str, Path]] = {}

    def add(self, where: str, content: Any) -> None:
        """Read an entry into a record; None under its name where it is dropped."""
        fields = LAYOUTS[self.layout]
        if isinstance(content, dict) and "duration" in content:
            fields = {**fields, "length": "duration"}
        has = {role: _column(where, content, field, role) for role, field in fields.items()}
        vid = str(has.get("vid", [""])[0])
        name = str(has.get("name", [f"{vid}#{len(self.records)}"])[0])
        if name in self.records:
            raise DataError(f"{where}: the name {name!r} is there twice")
        duration = float(has["length"][0]) if "length" in has else None
        if self.layout == "qvhighlights":
            has["texts"] *= len(has["spans"])  # one query for all its windows
        if who := has.get("speakers"):
            if who != ["human", "gpt"] * (len(who) // 2):
                raise DataError(f"{where}: conversations: expected human and gpt in turns, got {short(who)}")
            has["answers"] = has["texts"][1::2]
            has["texts"] = [text.replace("<image>", "").strip() for text in has["texts"][::2]]
        roles = ("spans", "texts", "answers")
        if len({len(has[role]) for role in roles if role in has}) > 1:
            raise DataError(f"{where}: differ in length: {', '.join(fields[role] for role in roles if role in fields)}")
        rows = enumerate(zip_longest(*(has.get(role, ()) for role in roles)))  # None where the layout has no such role
        found = [self.event(f"{where}: event {k}", duration or math.inf, *row) for k, row in rows]
        media = self.find(vid) if self.media is not None and vid else None
        is_lost = self.meets(f"{where}: {vid!r}", {"missing media": self.media is not None and media is None})
        subset, events = str(content.get("subset", content.get("task", ""))), tuple(filter(None, found))
        record = Record(name, vid, media, duration, events, subset)
        self.records[name] = None if is_lost or (self.bad == "drop" and not events) else record

    def event(self, where: str, length: float, span: Any, text: str | None, answer: str | None) -> Event | None:
        """An event, its span in order and clipped to the video; None where it is dropped."""
        if answer and length < math.inf and len(moments := MOMENT.findall(answer)) > 1:
            span = [float(moment) for moment in moments[:2]]
        wrong, clipped = {"empty text": "" in (text, answer)}, None
        if span is not None:
            low, high = (min(max(moment, 0.0), length) for moment in sorted(span))
            wrong |= {"outside the video": [low, high] != sorted(span), "inverted": span[0] > span[1]}
            where, wrong["zero length"] = f"{where}: {span} of {length} s", low == high
            clipped = Span(*sorted(span)) if self.bad == "keep" else Span(low, high)
        return None if self.meets(where, wrong) else Event(text or "", clipped, answer or "")

    def meets(self, where: str, problems: Mapping[str, bool]) -> bool:
        """Note the problems that are so; whether what has them is dropped."""
        found = [kind for kind, is_so in problems.items() if is_so]
        if self.bad == "raise" and {*found} - {"zero length"}:
            raise DataError(f"{where}: {' and '.join(found)}; bad='clip' or bad='drop' (--bad) reads on")
        for kind in found:
            self.problems[kind].append(where)
        return self.bad == "drop" and bool(found)

    def find(self, vid: str) -> Path | None:
        """The file that a vid names, with or without its ending, or its folder of pictures."""
        path = Path(str(self.media), vid)
        if path.parent not in self.listed:  # once, for data sets have thousands of videos
            there = sorted(path.parent.iterdir(), reverse=True) if os.path.isdir(path.parent) else []
            videos = {each.stem: each for each in there if each.suffix.lower() not in _NO_VIDEO and each.is_file()}
            self.listed[path.parent] = videos | {each.name: each for each in there}
        found = self.listed[path.parent].get(path.name)
        return found if found and (found.is_file() or any(found.iterdir())) else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e12  # NaN is not


_LEAVING = re.compile(r"(^|[/\\])\.{0,2}([/\\]|$)|^.:")  # a part that is empty, . or .., or a drive, on either system
_NAME = "a name that stays in its folder", lambda value: type(value) in (int, str) and not _LEAVING.search(str(value))
_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": _NAME,
    "vid": _NAME,
    "length": ("a positive number", lambda value: _is_number(value) and value > 0),
    "spans": ("[start, end]", lambda value: isinstance(value, list) and [*map(_is_number, value)] == [True, True]),
}


def _column(where: str, content: Any, spec: str, role: str) -> list[Any]:
    """The values of a field as in `LAYOUTS`, each of the kind that its role asks for."""
    field, brackets, inner = spec.partition("[]")
    if not isinstance(content, dict) or field not in content:
        raise DataError(f"{where}: field {field!r} is missing from {short(content)}")
    values = content[field] if brackets else [content[field]]
    if not isinstance(values, list):
        raise DataError(f"{where}: {field}: expected a list, got {short(values)}")
    if inner:
        rows = enumerate(values)
        return [value for k, row in rows for value in _column(f"{where}: {field}[{k}]", row, inner[1:], role)]
    expected, fits = _CHECKS.get(role, ("text", lambda value: isinstance(value, str)))
    for k, value in enumerate(values):
        if not fits(value):
            place = f"{field}[{k}]" if brackets else field
            raise DataError(f"{where}: {place}: expected {expected}, got {short(value)}")
    return [value.strip() for value in values] if role in ("texts", "answers") else values


def load_entries(path: Path, lengths: Mapping[str, float]) -> list[tuple[str, Any]]:
    """Where each entry of a file stands, and the entry; what an object calls it is its field ``{vid: …}``."""
    with raised_as(DataError, "not readable as JSON", OSError, ValueError, RecursionError):
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] not in ("{", "["):
            lines = enumerate(map(str.strip, text.split("\n")), start=1)
            return [(f"line {k}", _read_line(line, lengths)) for k, line in lines if line]
        if re.match(r"\s*\{.*\}\s*\n\s*\{", text):  # JSON lines
            text = "[" + ",\n".join(filter(str.strip, text.split("\n"))) + "]"
        content: Any = json.loads(text, parse_constant=int, object_pairs_hook=_unique)  # NaN is no int
    if isinstance(content, dict) and isinstance(content.get("database"), dict):
        content = content["database"]  # YouCook2
    if isinstance(content, dict) and any(isinstance(each, dict) for each in content.values()):
        return [(repr(key), {**row, "{vid: …}": key} if isinstance(row, dict) else row) for key, row in content.items()]
    return [(f"entry {k}", each) for k, each in enumerate(content if isinstance(content, list) else [content])]


def _read_line(line: str, lengths: Mapping[str, float]) -> Any:
    if not (match := _CHARADES.fullmatch(line)):
        return line
    vid, start, end, sentence = match.groups()
    entry = {"VID": vid, "start end": [float(start), float(end)], "##sentence": sentence}
    return entry | ({"duration": float(lengths[vid])} if vid in lengths else {})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"a name is there twice in {short(pairs)}")
    return found


def _sniff(first: Any) -> str:
    """The layout of which the first entry has the most fields and lacks the fewest."""
    has = first.keys() if isinstance(first, dict) else set()
    needs = {name: {field.partition("[]")[0] for field in fields.values()} for name, fields in LAYOUTS.items()}
    *_, second, best = sorted((2 * len(needs[name] & has) - len(needs[name]), len(needs[name]), name) for name in needs)
    if best < (0,) or best[:2] == second[:2]:
        known = "; ".join(f"{name}: {', '.join(dict.fromkeys(fields.values()))}" for name, fields in LAYOUTS.items())
        raise DataError(f"expected one of the layouts {known}; got a first entry {short(first)}")
    return best[2]
