"""The figure of an evaluation, read back from its artists: examples/plot_samples.py."""

import pytest

from plot_samples import scores


def test_scores_draw_what_the_rows_say():
    rows = [
        {"mIoU": k / 9, "seconds": 10.0 + k, "place": k / 10, "error": 9.0 - k, "start_probability": 0.05 + k / 10}
        | {"start_right": int(k > 4), "end_probability": "", "end_right": ""}
        for k in range(10)
    ]
    rows += [{**rows[0], "mIoU": "", "error": float("nan")}]  # an answer without a window
    figure = scores([{name: str(value) for name, value in row.items()} for row in rows])
    shares, by_length, by_place, calibration = figure.axes
    assert [bar.get_height() for bar in shares.patches].count(1) == 10
    for axes, at in ((by_length, [10.0 + k for k in range(10)]), (by_place, [k / 10 for k in range(10)])):
        (line,) = axes.lines
        assert line.get_xdata() == pytest.approx(at) and line.get_ydata() == pytest.approx([9.0 - k for k in range(10)])
    diagonal, reached = calibration.lines
    assert list(diagonal.get_xdata()) == [0, 1]
    assert list(reached.get_xdata()) == pytest.approx([0.05 + k / 10 for k in range(10)])
    assert list(reached.get_ydata()) == pytest.approx([0] * 5 + [1] * 5)


def test_an_evaluation_of_nothing_readable_is_drawn():
    row = dict.fromkeys(("error", "start_probability", "start_right", "end_probability", "end_right"), "")
    figure = scores([{"mIoU": 0.0, "seconds": 3.0, "place": 0.5, **row}])
    assert len(figure.axes) == 4
