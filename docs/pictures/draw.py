"""The pictures of docs/layouts.md, from the plans and masks themselves: ``python docs/pictures/draw.py``.

Shapes: s sequence.
"""

from pathlib import Path
from typing import get_args

import torch
from matplotlib import colors
from matplotlib.figure import Figure

from timetok.attention import FrameMask, frame_mask
from timetok.plots import layout, save
from timetok.pooling import PRESETS

FRAME_INDEX = [-1, -1, 0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1]  # two words, three frames of three tokens, two words
LAYOUTS = {"lita": (10, (4, 4)), "llava-video": (11, (4, 4)), "tsp": (16, (2, 2))}  # frames, patches of each


def named(preset: str, num_frames: int, grid: tuple[int, int]) -> Figure:
    """`timetok.plots.layout` of a preset, with its name."""
    figure = layout(PRESETS[preset], num_frames, grid)
    figure.suptitle(f"{preset}: {figure.get_suptitle()}", fontsize=9)
    return figure


def masks() -> Figure:
    """The four masks of TC-LLaVA over `FRAME_INDEX`, ``[s s]`` each: a dark cell is a key that the query's row sees."""
    figure = Figure((5.6, 5.9), 200, facecolor="white", layout="constrained")
    names = ["text" if frame < 0 else f"frame {frame}" for frame in FRAME_INDEX]
    edges = [k - 0.5 for k in range(1, len(names)) if names[k] != names[k - 1]]
    middles = [(start + stop) / 2 for start, stop in zip([-0.5, *edges], [*edges, len(names) - 0.5], strict=True)]
    labels = [names[round(middle)] for middle in middles]
    for axes, kind in zip(figure.subplots(2, 2).flat, get_args(FrameMask), strict=True):
        seen = frame_mask(torch.tensor([FRAME_INDEX]), kind=kind)[0, 0]
        axes.imshow(seen.numpy(), cmap=colors.ListedColormap(["#F2F2F2", "#0072B2"]), vmin=0, vmax=1)
        axes.set_title(kind, fontsize=10, weight="bold")
        axes.set_xticks(middles, labels, fontsize=7, rotation=90)
        axes.set_yticks(middles, labels, fontsize=7)
        axes.tick_params(length=0)
        for edge in edges:
            axes.axhline(edge, color="#666666", linewidth=0.8)
            axes.axvline(edge, color="#666666", linewidth=0.8)
    return figure


if __name__ == "__main__":
    figures = {f"layout-{preset}": named(preset, *sizes) for preset, sizes in LAYOUTS.items()} | {"masks": masks()}
    for name, figure in figures.items():
        print(save(figure, Path(__file__).with_name(f"{name}.png")))
