"""Draw docs/pooling.png from the CSVs: how near pooling comes to reading, or writing, memory once.

python benchmarks/plot.py
"""

from harness import ROOT, read_rows
from matplotlib.figure import Figure

ONCE = {"forward": "reading once", "backward": "writing once"}


def shares() -> dict[str, dict[str, float]]:
    """Share of the measured bandwidth, by pass and case."""
    found: dict[str, dict[str, float]] = {which: {} for which in ONCE}
    sources = [
        (row, "CPU" if row["allocator"] == "default" else f"CPU, {row['allocator']}") for row in read_rows("pooling")
    ]
    sources += [(row, row["device"]) for row in read_rows("pooling-gpu")]
    for row, where in sources:
        if ONCE.get(row["pass"]) == row["baseline"]:
            found[row["pass"]][f"{row['shape']} {row['dtype']}\n{where}"] = float(row["times_faster"])
    return found


def main() -> None:
    found = shares()
    rows = max(map(len, found.values()))
    figure = Figure(figsize=(9, 1 + 0.4 * rows), layout="constrained")
    for axes, (which, bars) in zip(figure.subplots(1, 2), found.items(), strict=True):
        axes.barh(list(bars), list(bars.values()), color="#0072B2")
        axes.bar_label(axes.containers[0], fmt="%.2f", padding=2, fontsize=7)
        axes.axvline(1, color="#222222", linewidth=0.8)
        axes.invert_yaxis()
        axes.tick_params(labelsize=7)
        axes.set(title=f"{which}: share of {ONCE[which]}", xlim=(0, max(1.1, *bars.values())))
    figure.savefig(ROOT / "docs" / "pooling.png", dpi=110)


if __name__ == "__main__":
    main()
