"""The pictures of docs/layouts.md show what masks say; layouts: test_plots."""

import re
import runpy
from typing import get_args

import numpy as np
import torch

from docs_blocks import DOCS
from timetok.attention import FrameMask, frame_mask

DRAW = runpy.run_path(str(DOCS / "pictures" / "draw.py"))


def images(figure):
    return [np.ma.filled(image.get_array().astype(float), np.nan) for axes in figure.axes for image in axes.images]


def test_layouts_have_names():
    titles = [DRAW["named"](preset, *sizes).get_suptitle() for preset, sizes in DRAW["LAYOUTS"].items()]
    assert titles[0] == "lita: 10 frames of 4 × 4 patches, 26 tokens"
    assert [title.split(":")[0] for title in titles] == list(DRAW["LAYOUTS"])


def test_the_masks_are_drawn_as_they_are():
    figure = DRAW["masks"]()
    index = torch.tensor([DRAW["FRAME_INDEX"]])
    assert [axes.get_title() for axes in figure.axes] == list(get_args(FrameMask))
    for drawn, kind in zip(images(figure), get_args(FrameMask), strict=True):
        np.testing.assert_array_equal(drawn, frame_mask(index, kind=kind)[0, 0].numpy())


def test_the_pictures_of_the_page_are_there_and_small():
    shown = re.findall(r"\]\((pictures/\S+\.png)\)", (DOCS / "layouts.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(f"pictures/{path.name}" for path in (DOCS / "pictures").glob("*.png"))
    assert all((DOCS / path).stat().st_size < 150_000 for path in shown)
