"""Explanations judged by another model, without a client: the batch files of OpenAI-compatible services.

timetok evaluate MODEL data/rtl.json --out runs/rtl
python examples/judge.py data/rtl.json runs/rtl --model NAME --out asked.jsonl      # send it to a service
python examples/judge.py asked.jsonl replied.jsonl                                  # its replies, in any number
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from timetok.atomic import replacing
from timetok.errors import ArgumentError, DataError, raised_as
from timetok.recipes.evaluate import read_answers, read_questions

PROMPT = """Two people explained their answer to a question about a video, which you cannot see. How well does each of
them answer what was asked: to the point, credible, precise, complete? Order and length count for nothing. Write on the
first line two numbers from 1 to 10, for the first and the second explanation, and your reasons below."""


@dataclass(frozen=True)
class JudgeReport:
    """``score`` is 100 · mean rating of predictions / mean rating of references, NaN where ``num_judged`` is 0.

    ``per_question`` has the ratings of (prediction, reference). ``failures`` enter no mean: ``custom_id``s by kind,
    "missing", "duplicate", "failed" (no text came), "unparsable" (no two numbers) or "out of range" (of 1 to 10).
    """

    score: float
    num_judged: int
    failures: dict[str, list[str]]
    per_question: dict[str, tuple[float, float]]


def write_requests(
    path: str | Path, pairs: Iterable[Sequence[str]], *, model: str, both_orders: bool = False, prompt: str = PROMPT
) -> None:
    """Ask ``model`` to rate the answers of each ``(question_id, question, reference, prediction)``, as JSON lines.

    The reference stands first; ``both_orders`` asks again with the two exchanged, since judges favour a place. Raises
    ArgumentError, and writes nothing, where a ``question_id`` comes twice.

    >>> write_requests("asked.jsonl", [("q1", "When?", "At the end.", "Soon.")], model="judge")  # doctest: +SKIP
    >>> read_replies("asked.jsonl", "replied.jsonl", "errors.jsonl").score  # doctest: +SKIP
    """
    lines: dict[str, str] = {}
    for key, question, *answers in pairs:
        for order, (first, second) in [("straight", answers), ("swapped", answers[::-1])][: 1 + both_orders]:
            ask = f"{prompt}\n\nQuestion: {question}\n\nFirst explanation: {first}\n\nSecond explanation: {second}"
            body = {"model": model, "messages": [{"role": "user", "content": ask}], "temperature": 0, "max_tokens": 512}
            if (name := f"{order}/{key}") in lines:
                raise ArgumentError(f"pairs: expected each question_id once, got {key!r} again")
            request = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines[name] = json.dumps(request) + "\n"
    with replacing(path) as partial:
        partial.write_text("".join(lines.values()), encoding="utf-8")


def read_replies(requests: str | Path, *replies: str | Path) -> JudgeReport:
    """Read the files that came back for ``requests``; what was asked in both orders counts if both replies are good.

    DataError is raised where a line is no JSON or replies to what was not asked. Source: LITA (arXiv 2403.19046)
    section 4; its public code averages a reply that it cannot read as -1.
    """
    came: dict[tuple[str, str], list[object]] = {}
    for path in (requests, *replies):
        with raised_as(DataError, f"{path}: expected JSON lines, each with a custom_id that was asked", Exception):
            for entry in map(json.loads, filter(str.strip, Path(path).read_text(encoding="utf-8").split("\n"))):
                order, key = entry["custom_id"].split("/", 1)
                came[order, key] = [] if path is requests else [*came[order, key], entry]
    failures, pairs = dict[str, list[str]](), dict[str, list[list[float]]]()
    for (order, key), entries in came.items():
        match entries:
            case [{"response": {"status_code": 200, "body": {"choices": [{"message": {"content": str(text)}}, *_]}}}]:
                found = re.match(r"\s*(\d+(?:\.\d+)?)[ \t,]+(\d+(?:\.\d+)?)\s*(?:\n|$)", text)
                ratings = list(map(float, found.groups())) if found else []
                kind = "out of range" if ratings else "unparsable"
            case _:
                ratings, kind = [], ("missing", "failed", "duplicate")[min(len(entries), 2)]
        if not ratings or min(ratings) < 1 or max(ratings) > 10:
            failures.setdefault(kind, []).append(f"{order}/{key}")
            ratings = []
        pairs.setdefault(key, []).append(ratings if order == "swapped" else ratings[::-1])
    judged = {key: (fmean(p for p, _ in rows), fmean(r for _, r in rows)) for key, rows in pairs.items() if all(rows)}
    predicted, true = (sum(pair[k] for pair in judged.values()) for k in (0, 1))
    return JudgeReport(100 * predicted / true if judged else float("nan"), len(judged), failures, judged)


def pairs_of(data: str | Path, run: str | Path) -> list[tuple[str, str, str, str]]:
    """What `write_requests` takes, of the questions of a data set and the folder of an evaluation that asked them."""
    answers = read_answers(Path(run))
    rows = [(str(each.reference.question_id), each) for each in read_questions(data)]
    if missing := [key for key, _ in rows if key not in answers]:
        raise DataError(
            f"run: {str(run)!r} has no answer to {missing[:3]}; was it of this data set, and is it finished?"
        )
    return [(key, each.text, each.answer, answers[key].text) for key, each in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="data set and run, or requests and replies")
    parser.add_argument("--model", help="who is to judge: write requests")
    parser.add_argument("--out", default="asked.jsonl", help="where to (%(default)s)")
    parser.add_argument("--both-orders", action="store_true")
    options = parser.parse_args()
    if options.model:
        write_requests(options.out, pairs_of(*options.files), model=options.model, both_orders=options.both_orders)
    print(f"written: {options.out}" if options.model else read_replies(*options.files) if options.files else __doc__)
