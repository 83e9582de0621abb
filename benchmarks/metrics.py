"""100 000 answers scored, against the definition in a loop: the numbers must agree before anything is timed.

    python benchmarks/metrics.py      # writes results/metrics.csv and docs/evaluate.md

Target: under a second.
"""

from statistics import fmean

import numpy as np
from harness import ROOT, add_rows, markdown, paired, provenance, read_rows, write_between

from timetok import Span
from timetok.metrics import Prediction, Reference, evaluate, iou

NUM, NUM_VIDEOS, LENGTH = 100_000, 3000, 100.0


def plain_iou(a: list[float], b: list[float]) -> float:
    """The definition."""
    both = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    either = (a[1] - a[0]) + (b[1] - b[0]) - both
    return both / either if either > 0 else 0.0


def plain_ious(found: list[list[float]], true: list[list[float]]) -> list[float]:
    """Of pairs of spans, one by one."""
    return [plain_iou(a, b) for a, b in zip(found, true, strict=True)]


def plain_charades(found: list[list[float]], true: list[list[float]]) -> list[float]:
    """mIoU, and R1 at three levels."""
    ious = plain_ious(found, true)
    return [fmean(ious), *(fmean(value >= level for value in ious) for level in (0.3, 0.5, 0.7))]


def main() -> None:
    """Measure."""
    rng = np.random.default_rng(0)
    found, true = (np.sort(rng.uniform(0, LENGTH, (NUM, 2)), 1) for _ in range(2))
    pairs = found.tolist(), true.tolist()
    predictions = [Prediction(k, (start, end)) for k, (start, end) in enumerate(pairs[0])]
    spans = [Span(*row) for row in pairs[1]]
    references = [Reference(k, f"v{k % NUM_VIDEOS}", span, LENGTH) for k, span in enumerate(spans)]

    def charades() -> list[float]:
        values = evaluate(predictions, references, "charades-sta").values
        return [values[name] for name in ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7")]

    np.testing.assert_allclose(iou(found, true), plain_ious(*pairs), atol=1e-12)
    np.testing.assert_allclose(charades(), plain_charades(*pairs), atol=1e-12)
    cases = {
        "`iou` of arrays": (lambda: iou(found, true), lambda: plain_ious(*pairs)),
        "`evaluate`, charades-sta": (charades, lambda: plain_charades(*pairs)),
        "`evaluate`, lita-rtl": (lambda: evaluate(predictions, references), lambda: plain_charades(*pairs)),
    }
    for name, (ours, baseline) in cases.items():
        add_rows("metrics", [{"case": name, **paired(ours, baseline, rounds=9), **provenance()}], key=["case"])
    rows = [
        [row["case"], f"{float(row['seconds']):.3f} s", f"{float(row['baseline_seconds']):.3f} s"]
        for row in read_rows("metrics")
    ]
    table = markdown(["100 000 answers", "timetok", "a loop that gives the averages alone"], rows)
    write_between(ROOT / "docs" / "evaluate.md", "metrics table", table)
    print(table)


if __name__ == "__main__":
    main()
