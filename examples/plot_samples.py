"""How an evaluation went, drawn from the rows that it left behind.

timetok evaluate MODEL data/rtl.json --out runs/rtl
python examples/plot_samples.py runs/rtl/samples.csv runs/rtl/report.png
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from timetok.plots import save

BLUE, GREY = "#0072B2", "#666666"


def scores(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how an evaluation went: IoUs, errors by the length of the video and by place in it, calibration.

    ``rows`` are those of the ``samples.csv`` of an evaluation, as numbers or as text.
    """

    def columns(*names: str) -> NDArray[np.float64]:  # of the rows that have them all
        values = [[float("nan" if row[name] == "" else row[name]) for name in names] for row in rows]
        table = np.array(values).reshape(-1, len(names))
        return np.asarray(table[~np.isnan(table).any(1)].T)

    figure = Figure((12.8, 7.0), 200, facecolor="white", layout="constrained")
    shares, by_length, by_place, calibration = figure.subplots(2, 2).flat
    shares.hist(columns("mIoU")[0], np.linspace(0, 1, 21), color=BLUE, edgecolor="white")
    shares.set(xlabel="IoU", ylabel="answers")
    by = {"seconds": (by_length, "length of the video in seconds"), "place": (by_place, "place in the video")}
    for name, (axes, label) in by.items():
        x, errors = columns(name, "error")
        groups = [each for each in np.array_split(np.argsort(x, kind="stable"), 10) if len(each)]  # of equal size
        low, middle, high = np.reshape([np.quantile(errors[each], (0.25, 0.5, 0.75)) for each in groups], (-1, 3)).T
        at = [x[each].mean() for each in groups]
        axes.fill_between(at, low, high, color=BLUE, alpha=0.2, label="middle half")
        axes.plot(at, middle, "o-", color=BLUE, markersize=4, label="median")
        axes.set(xlabel=label, ylabel="error in seconds")
        axes.legend(frameon=False)
    likely, right = np.hstack([columns(f"{side}_probability", f"{side}_right") for side in ("start", "end")])
    bins = [np.minimum((likely * 10).astype(int), 9) == k for k in range(10)]
    means = [(likely[some].mean(), right[some].mean()) for some in bins if some.any()]
    calibration.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    calibration.plot([x for x, _ in means], [y for _, y in means], "o-", color=BLUE, clip_on=False)
    calibration.set(xlabel="probability of a boundary", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    return figure


if __name__ == "__main__":
    if len(sys.argv) == 3:
        with Path(sys.argv[1]).open(encoding="utf-8", newline="") as file:
            print(save(scores(list(csv.DictReader(file))), sys.argv[2]))
    else:
        print(__doc__)
