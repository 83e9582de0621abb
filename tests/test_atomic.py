"""Nobody reads half a file."""

from pathlib import Path

import pytest

from timetok.atomic import replacing, write_json


def test_the_name_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_folder_may_be_named_by_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    with replacing(".") as partial:
        partial.mkdir()
        (partial / "a.txt").write_text("new")
    assert (tmp_path / "new" / "a.txt").read_text() == "new"


def test_what_was_there_stays_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replacing(folder) as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [file.name for file in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_json_ends_in_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"T": 100})
    assert (tmp_path / "a.json").read_text() == '{\n "T": 100\n}\n'
