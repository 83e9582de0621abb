"""Questions of a data set put to a model, or answered elsewhere, scored under a named protocol, and reported."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from timetok import plots
from timetok.atomic import replacing, write_json
from timetok.errors import ArgumentError, DataError, raised_as
from timetok.hub import AnyLocalizer, read_ahead
from timetok.lita.answer import Answer
from timetok.metrics import Prediction, Protocol, Reference, Report, SampleScore, bootstrap, evaluate, find_protocol
from timetok.metrics.predictions import read_predictions
from timetok.metrics.spans import as_pairs
from timetok.recipes.cache import claim, fingerprint
from timetok.recipes.records import Event, load_entries, read_records
from timetok.recipes.tasks import WORDINGS
from timetok.timegrid import Span, TimeGrid, iou

_FILES = ("event_loc.json", "rtl.json")
_QUERY = f"{WORDINGS['when'][0]} {WORDINGS['only_times'][0]}"
_DENSE = f"{WORDINGS['describe'][0]} {WORDINGS['times_first'][0]}"


@dataclass(frozen=True)
class Question:
    """What is asked about which video, None where it is not there; the query and the answer as annotated."""

    text: str
    path: Path | None
    query: str
    answer: str
    reference: Reference


def read_questions(
    data: str | Path, protocol: str | Protocol = "lita-rtl", *, wording: str = _QUERY, **how: Any
) -> list[Question]:
    """The questions that a protocol asks of an annotation file in one of `LAYOUTS`, or of a folder of LITA's two.

    One a query, with all its windows in QVHighlights; a protocol with detection asks one a record, for all its events.
    Windows are as annotated, in order but not clipped. ``wording`` is the question about an ``{event}``, a query in
    small letters; ``how`` is ``media`` (``videos`` beside it if None), ``layout``, ``durations`` of `read_records`.
    DataError: there is none, or an entry does not follow its schema, or lacks a window or a duration; ArgumentError:
    ``wording`` has no place for the event.
    """
    if "{event}" not in wording:
        raise ArgumentError(f"wording: expected a question with {{event}} in it, got {wording!r}")
    path, rules, questions = Path(data), find_protocol(protocol), []
    for file in _files(path):
        found = read_records(file, bad="keep", **{"media": file.parent / "videos", **how})
        shown = _saliency(file) if "HIT@1" in rules.measures and found.layout == "qvhighlights" else {}
        for record in found.records:
            together = found.layout == "qvhighlights" or "detection" in rules.measures
            groups = [record.events] if together else [(event,) for event in record.events]
            for k, group in enumerate(groups):
                name = record.name if len(groups) == 1 else f"{record.name}#{k}"
                query, _, answer = group[0] if group else Event("", None)
                text = query if answer else wording.replace("{event}", query.rstrip(".").lower())
                text = _DENSE if "detection" in rules.measures else text
                spans = tuple(event.span for event in group if event.span)
                duration = record.duration_seconds or 0.0
                needed = {"question": query, "window": spans, "duration (see durations, --durations)": duration}
                if lacking := [what for what, has in needed.items() if not has]:
                    raise DataError(f"{file.name}: {name}: lacks a {' and a '.join(lacking)}")
                key, task = name if path.is_file() else f"{file.stem}/{name}", record.subset or file.stem
                truth = Reference(key, record.vid, spans, duration, task, shown.get(name, ()))
                questions.append(Question(text, record.media, query, answer, truth))
    if not questions:
        raise DataError(f"data: expected a file of annotations or a folder with {_FILES}, got {str(path)!r}")
    return questions


def _saliency(file: Path) -> dict[str, tuple[tuple[float, ...], ...]]:
    """What annotators gave each two seconds of a video of QVHighlights, 0 to all others, by query."""
    found = {}
    with raised_as(DataError, f"{file.name}: saliency_scores, relevant_clip_ids", LookupError, ValueError, TypeError):
        for _, entry in load_entries(file, {}):
            given = np.array(entry.get("saliency_scores", ()), dtype=np.float64)
            clips = np.zeros((max(int(entry["duration"] / 2), 1), *given.shape[1:]))
            clips[entry.get("relevant_clip_ids", range(len(given)))] = given
            found[str(entry["qid"])] = tuple(map(tuple, clips.tolist())) if given.size else ()
    return found


def ask_all(
    localizer: AnyLocalizer, questions: Sequence[Question], *, batch_size: int = 32, ask: Any = None, **how: Any
) -> Iterator[Answer]:
    """One answer a question, in order, ``batch_size`` put at once; each video is read and encoded once.

    ``ask`` answers in place of the localizer's own, and with ``how``, as ``constrained=True``. DataError: no video.
    """
    if lost := [question.reference.vid for question in questions if question.path is None]:
        raise DataError(f"media: expected a file for each video, there is none for {sorted({*lost})[:9]}")
    left = Counter(question.path for question in questions if question.path)
    coming = zip(left, read_ahead(localizer, left), strict=True)
    known: dict[Path | None, tuple[Any, float]] = {}
    for start in tqdm(range(0, len(questions), batch_size), desc="batches of questions"):
        group = questions[start : start + batch_size]
        while not known.keys() >= {question.path for question in group}:
            path, frames = next(coming)
            known[path] = localizer.encode(frames.result()), frames.result().duration_seconds
        features, durations = zip(*(known[question.path] for question in group), strict=True)
        yield from (ask or localizer.ask)(features, [question.text for question in group], durations, **how)
        left.subtract(question.path for question in group if question.path)
        known = {path: encoded for path, encoded in known.items() if path and left[path]}


def evaluate_model(
    localizer: AnyLocalizer, questions: Sequence[Question], *, protocol: str | Protocol = "lita-rtl", **how: Any
) -> Report:
    """Put questions to a model, as `ask_all`, and score its answers; nothing is written."""
    order = sorted(range(len(questions)), key=lambda k: str(questions[k].path))  # those about one video side by side
    answers = dict(zip(order, ask_all(localizer, [questions[k] for k in order], **how), strict=True))
    return score(questions, [answers[k] for k in range(len(questions))], protocol=protocol)


def score(questions: Sequence[Question], answers: Sequence[Answer], *, protocol: str | Protocol = "lita-rtl") -> Report:
    """Score one answer a question."""
    pairs = zip([question.reference for question in questions], answers, strict=True)
    found = [Prediction(one.question_id, each.times_seconds, unfinished=each.unfinished) for one, each in pairs]
    return evaluate(found, [question.reference for question in questions], protocol)


def score_file(
    predictions: str | Path, questions: Sequence[Question], *, protocol: str | Protocol = "lita-rtl"
) -> Report:
    """Score what `read_predictions` reads; what is wrong with it is listed; DataError if it is about none of these."""
    asked: dict[tuple[str, str], list[str]] = {}
    for each in questions:
        asked.setdefault((each.reference.vid, each.query), []).append(str(each.reference.question_id))
    found, problems = read_predictions(predictions, asked=asked)
    report = evaluate(found, [each.reference for each in questions], protocol, malformed="count")
    if len(report.problems["missing"]) == len(questions):
        expected, got = questions[0].reference.question_id, found[0].question_id if found else "none"
        raise DataError(f"{predictions}: no id, or video and query, is one of {expected!r} …; the first id is {got!r}")
    return replace(report, problems={**problems, **report.problems})


def describe(
    model: Path, data: Path, questions: Sequence[Question], *, protocol: str | Protocol, **settings: Any
) -> dict[str, Any]:
    """All that a number depends on: rules, ``settings``, versions, and checksums of model, annotations and videos."""
    videos = sorted({question.path for question in questions if question.path})
    told = [*map(fingerprint, videos), *((each.text, each.reference) for each in questions)]  # durations, too
    seen = sha256(repr(told).encode()).hexdigest()
    packages = {name: version(name) for name in ("timetok", "torch", "transformers", "numpy", "av")}
    sums = {"model": _checksums(model.glob("*")), "data": _checksums(_files(data)), "questions": seen}
    return {"protocol": asdict(find_protocol(protocol)), **settings, "versions": packages, "sha256": sums}


def _files(data: Path) -> list[Path]:
    return [data] if data.is_file() else [data / name for name in _FILES if (data / name).is_file()]


def _checksums(files: Iterable[Path]) -> dict[str, str]:
    sums = {}
    for path in sorted(file for file in files if file.is_file()):
        with path.open("rb") as file:
            sums[path.name] = file_digest(file, "sha256").hexdigest()
    return sums


def run(
    localizer: AnyLocalizer, questions: Sequence[Question], out: Path, *, protocol: str | Protocol,
    settings: Mapping[str, Any], part: tuple[int, int] = (0, 1), **how: Any,
) -> Report | None:  # fmt: skip
    """Evaluate into a folder, part k of n of the videos, as `ask_all`; a call goes on where one was stopped.

    Answers are written as they come, the report once those of all parts are there; until then it gives None. DataError:
    the folder holds answers under other ``settings``, which are as of `describe`.
    """
    videos, done = sorted({str(question.path) for question in questions}), read_answers(out)
    claim(out / "manifest.json", settings, anew=not done)  # what was refused may be put right in the same folder
    mine = {*videos[part[0] :: part[1]]}
    left = [each for each in questions if str(each.path) in mine and each.reference.question_id not in done]
    left.sort(key=lambda question: str(question.path))  # those about one video side by side
    file = out / f"answers-{part[0]}-of-{part[1]}.jsonl"
    with file.open("ab") as lines:
        lines.truncate(file.read_bytes().rfind(b"\n") + 1)  # a line that was torn
        for question, answer in zip(left, ask_all(localizer, left, **how), strict=True):
            lines.write(json.dumps({"question_id": question.reference.question_id, **asdict(answer)}).encode() + b"\n")
            lines.flush()
    done = read_answers(out)
    if any(question.reference.question_id not in done for question in questions):
        return None
    answers = [done[question.reference.question_id] for question in questions]
    report, codec = score(questions, answers, protocol=protocol), localizer.tt.codec
    references, grid = [question.reference for question in questions], getattr(codec, "grid", None)
    write_report(report, references, out, answers=answers, grid=grid, seed=settings.get("seed", 0))
    return report


def read_answers(out: Path) -> dict[str | int, Answer]:
    """The answers in the folder of an evaluation, by question."""
    found: dict[str | int, Answer] = {}
    for file in sorted(out.glob("answers-*.jsonl")):
        with raised_as(DataError, f"{file}: expected the answers of an evaluation", ValueError, LookupError, TypeError):
            for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
                entry = json.loads(line)
                key = entry.pop("question_id")
                lists: Any = {name: tuple(each) for name, each in entry.items() if isinstance(each, list)}
                lists["spans"] = tuple(Span(**span) for span in entry["spans"])
                found[key] = Answer(**entry | lists)
    return found


def write_report(
    report: Report, references: Sequence[Reference], out: Path, *, answers: Sequence[Answer] = (),
    grid: TimeGrid | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """Write ``report.json``, ``report.md``, ``samples.csv``, a row a question, and figures; intervals are of 95 %.

    ``references`` and ``answers`` are in its order; a model's ``grid`` tells which boundaries are on the right mark.
    """
    out.mkdir(parents=True, exist_ok=True)
    intervals = bootstrap(report, seed=seed)
    write_json(out / "report.json", {**asdict(report), "intervals": intervals})
    header, first, *others = report.rows()
    between = (intervals.get(name) for name in header[1:])
    ends = ["95 %", *("" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}" for pair in between)]
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), first, ends, *others)]
    listed = [f"\n{kind}: {', '.join(map(str, ids))}" for kind, ids in report.problems.items() if ids]
    with replacing(out / "report.md") as partial:
        partial.write_text("\n".join([*lines, *listed]) + "\n", encoding="utf-8")
    rows = [_row(*sides, grid) for sides in zip_longest(report.per_sample, references, answers)]
    with replacing(out / "samples.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([rows[0], *(row.values() for row in rows)])
    figures = {"iou": plots.ious(rows), "length": plots.errors(rows), "place": plots.errors(rows, "place")}
    for name, figure in (figures | {"calibration": plots.calibration(rows)}).items():
        plots.save(figure, out / f"{name}.png")


def _row(sample: SampleScore, truth: Reference, answer: Answer | None, grid: TimeGrid | None) -> dict[str, Any]:
    """A line of the table; errors are those of the first window, against the annotated one nearest to it."""
    window, truths, length = as_pairs(sample.windows[:1]), as_pairs(truth.spans), truth.duration_seconds
    held = truths[iou(window, truths).argmax() if len(window) else 0]
    off = np.abs(window[0] - held) if sample.parsed else np.full(2, np.nan)
    row: dict[str, Any] = {"question_id": sample.question_id, "vid": sample.vid, "task": sample.task, "seconds": length}
    for name, spans in (("truth", truth.spans), ("windows", sample.windows)):
        row[name] = " ".join(f"{round(start, 3):g}-{round(end, 3):g}" for start, end in spans)
    row |= {"parsed": sample.parsed, **sample.measures, "error": off.mean(), "place": held.mean() / length}
    right = off <= (grid.max_error(length) if grid else 0) * (1 + 1e-9)
    likely: list[float] = []
    if answer and answer.probabilities and sample.parsed and grid:  # in the order of the window's ends
        likely = [chance for _, chance in sorted(zip(answer.times_seconds[:2], answer.probabilities, strict=False))]
    for side, near, chance in zip_longest(("start", "end"), right.tolist(), likely, fillvalue=""):
        row |= {f"{side}_probability": chance, f"{side}_right": int(near) if likely else ""}
    return row | {"answer": answer.text if answer else ""}
