"""The pictures of docs/layouts.md, from the plans and masks themselves: ``python docs/pictures/draw.py``.

Shapes: t frames, h w patch grid, s sequence.
"""

from pathlib import Path
from typing import get_args

import numpy as np
import torch
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from timetok.attention import FrameMask, frame_mask
from timetok.plots import save
from timetok.pooling import PRESETS, PoolingPlan

FRAME_INDEX = [-1, -1, 0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1]  # two words, three frames of three tokens, two words
LAYOUTS = {"lita": (10, (4, 4)), "llava-video": (11, (4, 4)), "tsp": (16, (2, 2))}  # frames, patches of each


def covered(plan: PoolingPlan, path: str, num_frames: int, grid: tuple[int, int]) -> NDArray[np.float64]:
    """For each patch the place in the sequence of the token made of it, ``[t h w]``; NaN where there is none."""
    places = np.full((num_frames, *grid), np.nan)
    for place, token in enumerate(plan.tokens(num_frames, grid)):
        if token.path == path and token.rows and token.columns:
            for frame in token.frames:
                places[frame, slice(*token.rows), slice(*token.columns)] = place
    return places


def layout(preset: str, num_frames: int, grid: tuple[int, int]) -> Figure:
    """Frames side by side, a row for each path: a cell is a token, its number and colour the place in the sequence."""
    plan, (height, width) = PRESETS[preset], grid
    tokens = plan.tokens(num_frames, grid)
    side = 4.4 / num_frames  # of a frame, in inches
    figure = Figure((4.8, 0.7 + (side + 0.12) * len(plan.paths)), 250, facecolor="white", layout="constrained")
    num_learned = sum(token.separator is not None for token in tokens)
    learned = f",\nof which {num_learned} learned separators are not drawn" if num_learned else ""
    title = f"{preset}: {num_frames} frames of {height} x {width} patches, {len(tokens)} tokens{learned}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=8, weight="bold")
    rows = figure.subplots(len(plan.paths), num_frames, squeeze=False)
    for axes, path in zip(rows, plan.paths, strict=True):
        drawn = covered(plan, path.name, num_frames, grid)
        for one, cells in zip(axes, drawn, strict=True):
            one.imshow(cells, cmap="cividis", vmin=0, vmax=len(tokens) - 1)
            one.set(xticks=[], yticks=[])
            one.spines[:].set(color="#BBBBBB")
            for place in np.unique(cells[~np.isnan(cells)]):
                (top, bottom), (left, right) = tokens[int(place)].rows, tokens[int(place)].columns
                corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
                one.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=0.8))
                middle, is_light = ((left + right - 1) / 2, (top + bottom - 1) / 2), place > 0.6 * len(tokens)
                style = {"fontsize": min(7, 18 * side), "color": "k" if is_light else "w"}
                one.text(*middle, f"{place:.0f}", ha="center", va="center", **style)
        axes[0].set_ylabel(path.name, fontsize=8)
    for frame, one in enumerate(rows[-1]):
        one.set_xlabel(f"{frame}", fontsize=7)
    figure.supxlabel("frame", fontsize=7)
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
    figures = {f"layout-{preset}": layout(preset, *sizes) for preset, sizes in LAYOUTS.items()} | {"masks": masks()}
    for name, figure in figures.items():
        print(save(figure, Path(__file__).with_name(f"{name}.png")))
