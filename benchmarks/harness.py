"""What every benchmark shares: provenance, CSV files that are never half-written, paired times, tables in Markdown."""

import csv
import gc
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch
import transformers

from timetok import __version__
from timetok.atomic import replacing

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "examples"))  # the shapes are one
RESULTS = ROOT / "benchmarks" / "results"


def provenance() -> dict[str, object]:
    """Versions, commit and machine: the last columns of every row."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "timetok": __version__,
        "commit": commit.strip(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
    }


def read_rows(name: str) -> list[dict[str, str]]:
    """Rows of ``results/{name}.csv``, none where it does not exist."""
    path = RESULTS / f"{name}.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def add_rows(name: str, rows: Sequence[dict[str, object]], *, key: Sequence[str]) -> None:
    """Add rows to ``results/{name}.csv`` in place of those of the same key; older rows keep what they had measured."""
    new = {tuple(str(row[column]) for column in key) for row in rows}
    kept = [row for row in read_rows(name) if tuple(row[column] for column in key) not in new]
    columns = dict.fromkeys(column for row in [*rows, *kept] for column in row)
    RESULTS.mkdir(exist_ok=True)
    with replacing(RESULTS / f"{name}.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), restval="")
        writer.writeheader()
        writer.writerows([*kept, *rows])


def seconds(call: Callable[[], object]) -> float:
    """Time of one call; what it queued on a GPU is waited for."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], object],
    baseline: Callable[[], object],
    *,
    rounds: int = 21,
    baseline_seconds: Callable[[], float] | None = None,
) -> dict[str, float]:
    """Two calls timed one after the other, ``rounds`` times after a warm-up; they take turns in being the first.

    Python's garbage is collected between rounds, not within, as timeit has it: a collection falls into either call.
    What was there before stays out of it: to go through all objects would empty the caches before the first call.

    Returns:
        ``seconds`` and ``baseline_seconds``, the medians, and ``ratio``, the median of the paired ratios, with
        ``ratio_p20`` and ``ratio_p80``. A baseline may tell its own time.
    """
    ours(), baseline()
    pairs = []
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for k in range(rounds):
            gc.collect()
            first = seconds(baseline if k % 2 else ours)
            second = seconds(ours if k % 2 else baseline)
            mine, theirs = (second, first) if k % 2 else (first, second)
            pairs.append((mine, baseline_seconds() if baseline_seconds else theirs))
    finally:
        gc.enable()
        gc.unfreeze()
    ratios = [mine / theirs for mine, theirs in pairs]
    fifths = quantiles(ratios, n=5)
    return {
        "seconds": median(mine for mine, _ in pairs),
        "baseline_seconds": median(theirs for _, theirs in pairs),
        "ratio": median(ratios),
        "ratio_p20": fifths[0],
        "ratio_p80": fifths[3],
    }


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_between(path: Path, name: str, content: str) -> None:
    """Put ``content`` between ``<!-- name -->`` and ``<!-- end of name -->`` of a page."""
    text = path.read_text(encoding="utf-8")
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if text.count(marks[0]) != 1 or text.count(marks[1]) != 1:
        raise SystemExit(f"{path.name}: expected {marks[0]} and {marks[1]}, once each")
    head, _, rest = text.partition(marks[0])
    with replacing(path) as partial:
        partial.write_text(f"{head}{marks[0]}\n{content}\n{marks[1]}{rest.partition(marks[1])[2]}", encoding="utf-8")
