"""Tables and plots from the CSV files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from ablations.grid import DEFAULT, GRID, QUESTIONS
from harness import markdown, read_rows, write_between
from matplotlib.figure import Figure

from timetok.plots import save

Rows = Sequence[Mapping[str, str]]
MISSING = "not measured yet"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
MARKERS = "os^Dv"

COLUMNS = {  # of each table: what is above, and what of a row is below
    "mIoU": "miou",
    "R1@0.5": "r1_at_05",
    "reasoning mIoU": "rtl_miou",
    "parsed": "parsed",
    "confidence": "confidence",
    "calibration error": "calibration_error",
    "rank corr.": "rank_correlation",
    "visual tokens": "visual_tokens",
}
ACCURACY = ("mIoU", "R1@0.5", "reasoning mIoU", "parsed")
SHOWN = {
    "a": ACCURACY,
    "b": ("mIoU", "R1@0.5", "calibration error", "rank corr."),
    "c": ("mIoU", "R1@0.5", "confidence", "calibration error", "rank corr."),
    "d": ACCURACY,
    "e": ACCURACY,
    "f": ("visual tokens", "mIoU", "R1@0.5"),
    "g": ("mIoU", "R1@0.5", "parsed"),
    "h": ACCURACY,
}
WAYS = {"b": ("greedy", "posterior"), "c": ("greedy", "posterior", "head")}  # elsewhere what is written first
TIMES = {"c": "answer", "f": "prefill of 16"}


def mean_sd(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation of a sample; of one value, that it is one.

    >>> mean_sd([0.4, 0.5, 0.6])
    '0.500 ± 0.100'
    """
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def lines(experiment: str, found: Rows, times: Rows) -> list[list[str]]:
    """The lines of a table, in the order of the grid; rows without numbers say so."""
    table = []
    named = [row.name for row in GRID if row.experiment == experiment]
    for name in dict.fromkeys([*named, *(row["variant"] for row in found if row["experiment"] == experiment)]):
        of_name = [row for row in found if (row["experiment"], row["variant"]) == (experiment, name)]
        if not of_name:
            table.append([name, "0", MISSING, *[""] * (len(header(experiment)) - 3)])
        for way in WAYS.get(experiment, ("greedy",)):
            if not (rows := [row for row in of_name if row["answered_by"] == way]):
                continue
            cells = [mean_sd([float(row[COLUMNS[title]]) for row in rows]) for title in SHOWN[experiment]]
            label = f"{name}, {way}" if experiment in WAYS else name
            table.append([label, str(len(rows)), *cells, *_time(experiment, name, way, times)])
    return table


def header(experiment: str) -> list[str]:
    timed = [f"{TIMES[experiment]}, ms", "ratio"] if experiment in TIMES else []
    return ["variant", "seeds", *SHOWN[experiment], *timed]


def _time(experiment: str, name: str, way: str, times: Rows) -> list[str]:
    if experiment not in TIMES:
        return []
    way = "prefill" if experiment == "f" else way
    for row in times:
        if (row["experiment"], row["variant"], row["answered_by"]) == (experiment, name, way):
            spread = f"{float(row['ratio']):.2f} ({float(row['ratio_p20']):.2f} to {float(row['ratio_p80']):.2f})"
            return [f"{1000 * float(row['seconds']):.1f}", spread]
    return ["", ""]


def _figure(height: float, **labels: str):
    figure = Figure((6.4, height), 110, facecolor="white", layout="constrained")
    axes = figure.add_subplot(**labels)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def strip(table: Mapping[str, Sequence[float]], xlabel: str, guess: Sequence[float]) -> Figure:
    """A dot for every seed of every variant, a bar for their mean, and a line at what the whole video scores."""
    figure, axes = _figure(0.8 + 0.32 * len(table), xlabel=xlabel)
    for value in guess:
        axes.axvline(value, color=GREY, linestyle="--", linewidth=1)
    for place, values in enumerate(table.values()):
        axes.plot([mean(values)] * 2, [place - 0.3, place + 0.3], color=ORANGE, linewidth=2)
        axes.plot(values, [place] * len(values), "o", color=BLUE, markersize=5, alpha=0.8)
    axes.set_yticks(range(len(table)), list(table))
    axes.invert_yaxis()
    return figure


def scatter(points: Mapping[str, tuple[float, float]], xlabel: str, *, front: bool) -> Figure:
    """Accuracy over cost, each point by its name; with ``front``, those that no cheaper one beats are joined."""
    figure, axes = _figure(4.6, xlabel=xlabel, ylabel="event localisation, mIoU")
    best, joined = -1.0, []
    for name, (x, y) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        axes.plot(x, y, "o", color=BLUE, markersize=5)
        axes.annotate(name, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7, color=GREY)
        if y > best:
            best = y
            joined.append((x, y))
    if front and joined:
        axes.plot(*zip(*joined, strict=True), color=ORANGE, linewidth=1.2, zorder=0)
    axes.margins(x=0.2)
    return figure


def lines_over(series: Mapping[str, Mapping[float, Sequence[float]]], xlabel: str, ticks: Sequence[float]) -> Figure:
    """Means over seeds, a line each, and a dot for every seed."""
    figure, axes = _figure(4.2, xlabel=xlabel, ylabel="event localisation, mIoU", xscale="log")
    for number, (name, found) in enumerate(series.items()):
        xs = sorted(found)
        (line,) = axes.plot(xs, [mean(found[x]) for x in xs], marker=MARKERS[number % 5], markersize=4, label=name)
        for x in xs:
            axes.plot([x] * len(found[x]), found[x], ".", color=line.get_color(), markersize=3, alpha=0.6)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    return figure


def figures(found: Rows, times: Rows) -> dict[str, Figure]:
    """By the names of their files; of experiments that have rows."""
    drawn: dict[str, Figure] = {}
    numbers: dict[tuple[str, str, str], list[float]] = {}
    for row in found:
        key = row["experiment"], row["variant"], row["answered_by"]
        numbers.setdefault(key, []).append(float(row["miou"]))
    guess = numbers.get(("a", "the whole video", "greedy"), [])
    for experiment in "adeh":
        named = [row.name for row in GRID if row.experiment == experiment]
        table = {name: numbers[experiment, name, "greedy"] for name in named if (experiment, name, "greedy") in numbers}
        if table:
            drawn[experiment] = strip(table, "event localisation, mIoU", guess)
    by_marks: dict[str, dict[float, list[float]]] = {}
    for row in GRID:
        if row.experiment == "b" and row.variant.rows == DEFAULT.rows:
            for way in WAYS["b"]:
                if values := numbers.get(("b", row.name, way)):
                    by_marks.setdefault(f"{row.variant.loss}, {way}", {})[row.variant.marks] = values
    if by_marks:
        drawn["b"] = lines_over(by_marks, "number of time tokens T", (10, 25, 50, 100, 200))
    by_frames: dict[str, dict[float, list[float]]] = {}
    for row in GRID:
        if row.experiment == "g" and row.test == "test" and (values := numbers.get(("g", row.name, "greedy"))):
            by_frames.setdefault(row.name.partition(":")[0], {})[row.frames] = values
    if by_frames:
        drawn["g"] = lines_over(by_frames, "frames shown of the same clips", (8, 16, 32))
    for experiment, label in (("c", "one answer"), ("f", "prefill of 16 prompts")):
        points = {}
        for row in times:
            way = "greedy" if row["answered_by"] == "prefill" else row["answered_by"]
            key = row["experiment"], row["variant"], way
            if row["experiment"] == experiment and key in numbers:
                name = row["variant"] if experiment == "f" else f"{row['variant']}, {way}"
                points[name] = 1000 * float(row["seconds"]), mean(numbers[key])
        if points:
            drawn[experiment] = scatter(points, f"{label}, milliseconds on one thread", front=experiment == "f")
    return drawn


def write(table: str, folder: Path) -> None:
    """Put every table between its marks on the page, and draw every figure beside it."""
    found, times = read_rows(table), read_rows(f"{table}_speed")
    page = folder / "index.md"
    if not page.exists():  # a page of tables alone
        folder.mkdir(parents=True, exist_ok=True)
        parts = [f"## {key}. {told}\n\n<!-- {key} -->\n<!-- end of {key} -->\n" for key, told in QUESTIONS.items()]
        page.write_text("\n".join(["# Ablations\n", *parts, "<!-- provenance -->\n<!-- end of provenance -->\n"]))
    for experiment in QUESTIONS:
        write_between(page, experiment, markdown(header(experiment), lines(experiment, found, times)))
    write_between(page, "provenance", provenance_of(found))
    for name, figure in figures(found, times).items():
        save(figure, folder / f"{name}.png")


def provenance_of(found: Rows) -> str:
    """What the rows were made with, and how long their models took."""
    if not found:
        return "No row is there yet."
    told = []
    for column in ("timetok", "commit", "torch", "transformers", "numpy", "python", "device"):
        told.append(f"{column} {', '.join(sorted({row[column] for row in found}))}")
    minutes = {row["model"]: float(row["train_minutes"]) for row in found}
    seeds = sorted({row["seed"] for row in found})
    models = (
        f"{len(minutes)} models, {sum(minutes.values()):.0f} minutes of CPU to train them, seeds {', '.join(seeds)}"
    )
    return f"{models}; {'; '.join(told)}."
