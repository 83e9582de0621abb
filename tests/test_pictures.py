"""The pictures of docs/layouts.md show what plans and masks say."""

import re
import runpy
from typing import get_args

import numpy as np
import pytest
import torch

from docs_blocks import DOCS
from timetok.attention import FrameMask, frame_mask
from timetok.pooling import PRESETS

DRAW = runpy.run_path(str(DOCS / "pictures" / "draw.py"))
SIZES = DRAW["LAYOUTS"] | {"lita-spatial-pool": (7, (6, 4)), "lita-spatial": (3, (2, 3))}


def images(figure):
    return [np.ma.filled(image.get_array().astype(float), np.nan) for axes in figure.axes for image in axes.images]


@pytest.mark.parametrize("preset", SIZES)
def test_a_patch_is_drawn_in_the_colour_of_its_token(preset):
    num_frames, (height, width) = SIZES[preset]
    plan = PRESETS[preset]
    tokens = plan.tokens(num_frames, (height, width))
    drawn = np.reshape(images(DRAW["layout"](preset, num_frames, (height, width))), (-1, num_frames, height, width))
    assert len(drawn) == len(plan.paths)
    seen = set()
    for (row, frame, y, x), place in np.ndenumerate(drawn):
        path = plan.paths[row]
        if np.isnan(place):
            assert frame not in path.frame_indices(num_frames)
            continue
        token = tokens[int(place)]
        assert token.path == path.name and frame in token.frames
        assert token.rows[0] <= y < token.rows[1] and token.columns[0] <= x < token.columns[1]
        seen.add(int(place))
    assert seen == {place for place, token in enumerate(tokens) if not token.separator}  # none hides behind another


def test_a_cell_is_numbered_once():
    figure = DRAW["layout"]("lita", 10, (4, 4))
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == [str(place) for place in range(26)]


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
