"""What users install: wheel and sdist hold what git tracks, versions agree, types come along."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling import build

import timetok

ROOT = Path(__file__).parent.parent


def tracked(*paths: str) -> set[str]:
    listing = ["git", "ls-files", "-z", "--", *paths]
    told = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(filter(None, told.split("\0")))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both, built as `make dist` does, offline."""
    out, before = tmp_path_factory.mktemp("dist"), Path.cwd()
    os.chdir(ROOT)
    try:
        return {
            "wheel": out / build.build_wheel(str(out)),
            "sdist": out / build.build_sdist(str(out)),
        }
    finally:
        os.chdir(before)


def test_the_wheel_holds_the_files_of_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = set(wheel.namelist())
        about = f"timetok-{timetok.__version__}.dist-info"
        written = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
        package = {name.removeprefix("src/") for name in tracked("src/timetok")}
        assert names == package | {f"{about}/{name}" for name in written}
        assert sum(each.compress_size for each in wheel.infolist()) < 5_000_000
        told = wheel.read(f"{about}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in told and "Requires-Python: >=3.11" in told


def test_the_sdist_holds_the_tree(built: dict[str, Path]) -> None:
    """Tests, examples and docs as well: whoever packages it for a distribution can test what they built."""
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names == tracked() | {"PKG-INFO"}


def test_the_wheel_of_the_sdist_is_the_wheel(
    built: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / built["sdist"].name.removesuffix(".tar.gz"))
    again = tmp_path / build.build_wheel(str(tmp_path))
    assert again.read_bytes() == built["wheel"].read_bytes()


def test_versions_agree() -> None:
    """`timetok.__version__` is the only place; what repeats it repeats it rightly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/timetok/__init__.py"
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and cited["version"] == timetok.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changes, re.MULTILINE)
    released = [pair for pair in headings if pair[0] != "Unreleased"]
    if not released:  # the first one is still being written
        assert headings == [("Unreleased", "")] and "date-released" not in cited
    else:
        assert released[0] == (timetok.__version__, str(cited.get("date-released")))


def test_forms_and_workflows_are_yaml_that_hold_what_they_must() -> None:
    github = ROOT / ".github"
    for form in (github / "ISSUE_TEMPLATE").glob("*.yml"):
        told = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert form.stem == "config" or {"name", "description", "body"} <= set(told), form.name
    ci, release = (yaml.safe_load((github / "workflows" / f"{name}.yml").read_text()) for name in ("ci", "release"))
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    wanted = [told.rpartition(" ")[2] for told in supported if re.search(r":: 3\.\d+$", told)]
    assert ci["jobs"]["check"]["strategy"]["matrix"]["python"] == wanted
    assert release[True]["push"]["tags"] == ["v*"]  # YAML 1.1 reads `on` as true
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (github / "workflows" / "release.yml").read_text()


# other people's packages are left out: a minute of reading, for the types of ours
SKIPPED = "torch transformers timm matplotlib numpy scipy av PIL einops safetensors huggingface_hub tqdm triton"
CHECKED = """
from typing import assert_type
from timetok import Span, TimeGrid
from timetok.metrics import Prediction, Reference, Report, evaluate

span = Span(1.0, 2.0)
assert_type(span.start, float)
assert_type(TimeGrid(100, marks="centres"), TimeGrid)
report = evaluate([Prediction("a", (1.0, 2.0))], [Reference("a", "v", (span,), 60.0)], "lita-rtl")
assert_type(report, Report)
assert_type(report.per_sample[0].windows, tuple[Span, ...])
Span("1", 2.0)  # type: ignore[arg-type]
TimeGrid(100, marks="ends")  # type: ignore[arg-type]
evaluate([], [], malformed="drop")  # type: ignore[arg-type]
span.begin  # type: ignore[attr-defined]
"""


def test_a_users_type_checker_sees_the_types(tmp_path: Path) -> None:
    """As installed, by py.typed; `make check` has mypy read typed_consumer.py, every name of which has its type."""
    (tmp_path / "user.py").write_text(CHECKED)
    others = ",".join(f"{name}.*" for name in SKIPPED.split())
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = True\n[mypy-{others}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", "cache", "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
