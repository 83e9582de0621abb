"""From files in every published layout to a trained and evaluated model, by the commands a user types."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny_data
import tiny_sets
import tiny_videos
from timetok.cli import main
from timetok.recipes.records import read_records

TASKS = {
    "captions": "{ dvc = 1, event_loc = 1 }",
    "youcook2": "{ dvc = 1, event_loc = 1 }",
    "timelens": "{ event_loc = 2 }",
    "charades": "{ event_loc = 2 }",
    "qvhighlights": "{ event_loc = 2 }",
    "vidqa": "{ vidqa = 2 }",
    "llava": "{ imgqa = 2 }",
    "rtl": "{ rtl = 2 }",
}


def test_every_layout_is_checked_trained_on_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_sets.write_parts(tmp_path)
    durations, clip = tiny_data.write_durations(tmp_path), tiny_videos.write(tmp_path / "clip.mp4", 16, fps=4)
    files = {layout: tiny_data.write(tmp_path, layout) for layout in [*TASKS, "rtl-eval"]}
    for layout, path in files.items():
        for record in read_records(path, durations=durations).records:
            media = tmp_path / "videos" / record.vid
            media.parent.mkdir(parents=True, exist_ok=True)
            if layout == "llava":
                Image.fromarray(np.full((9, 12, 3), 80, dtype=np.uint8)).save(media)
            else:
                shutil.copy(clip, media.with_name(f"{media.name}.mp4"))
    with_lengths = ["--durations", str(durations)]
    for layout, path in files.items():
        told = with_lengths if layout == "charades" else []
        assert main(["data", "check", str(path), "--media", str(tmp_path / "videos"), "--json", *told]) == 0
        census = json.loads(capsys.readouterr().out)
        assert census["layout"] == layout and census["records"] > 0 and not any(census["problems"].values())
    sets = ", ".join(
        f'{layout} = {{ path = "{files[layout]}", media = "{tmp_path / "videos"}"'
        + (f', durations = "{durations}" }}' if layout == "charades" else " }")
        for layout in TASKS
    )
    rates = ", ".join(f"{layout} = {tasks}" for layout, tasks in TASKS.items())
    changes = {"data__sets": f"{{ {sets} }}", "stages__0__rates": f"{{ {rates} }}", "stages__0__num_samples": "40"}
    trainer = (
        "{ max_steps = 12, per_device_train_batch_size = 2, learning_rate = 5e-3, logging_steps = 1, save_steps = 12, "
    )
    preset = tiny_sets.write_preset(tmp_path, **changes, stages__0__trainer=trainer + "use_cpu = true }")
    out = tmp_path / "run"
    assert main(["train", str(preset), "--out", str(out), "--json"]) == 0
    curve = [float(line.split(",")[1]) for line in (out / "model" / "curve.csv").read_text().splitlines()[1:]]
    assert len(curve) == 12 and np.mean(curve[-3:]) < np.mean(curve[:3]) - 0.3
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"model": str(out / "model")}
    protocols = {"rtl-eval": "lita-rtl", "captions": "dense-captions", "charades": "charades-sta"}
    for layout, protocol in {**protocols, "timelens": "timelens", "qvhighlights": "qvhighlights"}.items():
        where = ["--media", str(tmp_path / "videos"), "--durations", str(durations)]
        command = ["evaluate", str(out / "model"), str(files[layout]), "--protocol", protocol, "--json", *where]
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["protocol"]["name"] == protocol and found["num_samples"] > 1
