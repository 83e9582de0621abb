"""The public face: every promised name is there, lazily, and a misspelt one says so."""

import ast
import doctest
import pkgutil
import runpy
from importlib import import_module
from pathlib import Path

import pytest

import timetok
from tiny_training import skip_before

MODULES = [info.name for info in pkgutil.walk_packages(timetok.__path__, "timetok.") if "__main__" not in info.name]
EXAMPLES = [  # tests/test_attention.py and tests/test_lmms_eval.py run the others
    path
    for path in sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
    if path.stem not in ("flex_attention", "lmms_eval_model")
]
NAMES = ["Answer", "SlowFastPooler", "Span", "TimeGrid", "TimeTokenizer", "VideoAdapter", "localize", "localize_long"]
ROOMS = [
    "adapter",
    "attention",
    "codecs",
    "decoding",
    "embeddings",
    "errors",
    "hub",
    "lita",
    "losses",
    "metrics",
    "plots",
    "pooling",
    "recipes",
    "timegrid",
    "tokenizer",
    "video",
    "vision",
]


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_the_object_of_its_room(name: str) -> None:
    value = getattr(timetok, name)
    assert value.__name__ == name
    assert value.__module__.startswith("timetok.")


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_an_attribute(room: str) -> None:
    assert getattr(timetok, room).__name__ == f"timetok.{room}"


def test_dir_and_all_list_every_public_name() -> None:
    assert set(timetok.__all__) == {"__version__", *NAMES, *ROOMS}
    assert set(timetok.__all__) <= set(dir(timetok))


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse(Path(timetok.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == sorted(timetok.__all__)


def test_unknown_name_is_an_attribute_error_that_repeats_it() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'TimeGird'.*TimeGrid"):
        timetok.TimeGird  # noqa: B018
    assert not hasattr(timetok, "utils")


def test_version_is_a_plain_release_number() -> None:
    assert [part.isdigit() for part in timetok.__version__.split(".")] == [True, True, True]


@pytest.mark.parametrize("module", ["timetok", *MODULES])
def test_docstring_examples_are_true(module: str) -> None:
    assert doctest.testmod(import_module(module)).failed == 0


SHORT = {  # options of long ones
    "grpo_shapes": ["--train=4", "--test=2", "--steps=2", "--questions=2", "--group=4"],
    "shapes_encoder": ["--clips=4", "--frames=12", "--steps=6", "--batch=16"],
}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # read by peft
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(
    example: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if example.stem == "slowfast_in_a_vlm":
        skip_before("5.20", "features of videos come otherwise")
    options = [*SHORT[example.stem], f"--out={tmp_path}"] if example.stem in SHORT else []
    monkeypatch.setattr("sys.argv", [str(example), *options])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out
