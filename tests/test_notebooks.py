"""The notebooks run from top to bottom, and are stored without what they printed."""

import ast
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent.parent / "examples" / "notebooks"


def run(path):
    """The names that a notebook leaves, and what its cells show, as Jupyter would."""
    names, shown = {"__name__": "__main__"}, []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            tree = ast.parse("".join(cell["source"]), path.name)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, path.name, "exec"), names)
            if last is not None:
                shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
    return names, shown


def test_a_video_is_asked():
    names, shown = run(FOLDER / "ask_a_video.ipynb")
    assert names["report"].miou > 0.5
    assert names["belief"]["best"][:2] == pytest.approx([*names["truth"]], abs=1)
    assert sum(isinstance(each, Figure) for each in shown) == 2


def test_the_pieces_learn():
    names, _ = run(FOLDER / "pieces.ipynb")
    assert sum(names["losses"][-20:]) < sum(names["losses"][:20]) / 2
    assert names["mean_iou"] > 0.5
