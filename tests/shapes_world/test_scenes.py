"""Synthetic clips: what is said about them is what is in their pixels."""

import json
from itertools import combinations

import av
import numpy as np
import pytest
from hypothesis import given, strategies as st

from shapes_world import scenes as world
from shapes_world.painting import render_frames
from shapes_world.scenes import COLOURS, HELD_OUT, SHAPES, cut, draw_scene
from shapes_world.tasks import name_of, pair_of, shown
from timetok.errors import ArgumentError, DataError
from timetok.timegrid import Span

SPLITS = ("train", "test", "shifted")


@pytest.fixture
def drawn_as(monkeypatch):
    """Sets the duration in seconds, the frames a second and the size of every scene drawn."""
    return lambda *drawn: monkeypatch.setattr(world, "_draw_format", lambda rng, split: drawn)


def count_pixels(frames, colour):
    """[t h w 3] → [t]: pixels within 40 of a named colour in every channel."""
    near = np.abs(frames.astype(np.int16) - np.array(COLOURS[colour], dtype=np.int16)) <= 40
    return near.all(-1).sum((1, 2))


def test_named_colours_are_far_apart():
    apart = [np.abs(np.subtract(a, b)).max() for a, b in combinations(COLOURS.values(), 2)]
    assert min(apart) > 80
    assert len(COLOURS) == 6


def test_each_shape_is_held_out_in_one_colour():
    assert sorted(shape for _, shape in HELD_OUT) == sorted(SHAPES)
    assert len({colour for colour, _ in HELD_OUT}) == 5


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_keep_their_rules(split):
    for seed in range(60):
        scene = draw_scene(seed, split)
        low, high = (90, 180) if split == "shifted" else (5, 90)
        seconds = scene.num_frames / scene.fps
        assert low - 1 <= seconds <= high + 1
        assert scene.fps in ({5, 15} if split == "shifted" else {6, 8, 10, 12})
        pairs = [pair_of(event) for event in scene.events]
        assert 2 <= len(pairs) <= 5
        assert len(set(pairs)) == len(pairs)
        assert bool(HELD_OUT & set(pairs)) == (split == "shifted")
        starts = [event.span.start for event in scene.events]
        assert min(np.diff(starts)) >= 0.03 * seconds - 1e-9
        for event in scene.events:
            length = event.span.end - event.span.start
            assert length >= 0.6 - 1e-9
            assert event.span.start >= 0
            assert event.span.end <= seconds + 1e-9
            assert 0.08 - 1e-9 <= length / seconds <= max(0.45, 0.6 / seconds) + 1e-9
            assert sum(other.span.start <= event.span.start < other.span.end for other in scene.events) <= 3


def test_equal_seeds_give_equal_scenes_and_pixels():
    first, again = draw_scene(11), draw_scene(11)
    assert first == again
    assert np.array_equal(render_frames(first, [0, 3]), render_frames(again, [0, 3]))
    assert len({draw_scene(11, split).events for split in SPLITS}) == 3
    assert draw_scene(11) != draw_scene(12)


def test_one_frame_is_that_frame_of_many(drawn_as):
    drawn_as(6.0, 8, (160, 120))
    scene = draw_scene(5)
    frames = render_frames(scene, [47, 0, 20])
    assert frames.shape == (3, 120, 160, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames[2], render_frames(scene, [20])[0])
    assert render_frames(scene, []).shape == (0, 120, 160, 3)


@pytest.mark.parametrize("split", SPLITS)
def test_a_colour_is_seen_exactly_while_its_shapes_are_visible(split, drawn_as):
    drawn_as(12.0, 6, (128, 128))
    for seed in range(4):
        scene = draw_scene(seed, split)
        frames = render_frames(scene, range(scene.num_frames))
        for colour in COLOURS:
            visible = np.zeros(scene.num_frames, dtype=bool)
            for event in scene.events:
                if pair_of(event)[0] == colour:
                    first, stop = round(event.span.start * scene.fps), round(event.span.end * scene.fps)
                    visible[first:stop] = True
                    assert (count_pixels(frames[[first, stop - 1]], colour) > 30).all()
            seen = count_pixels(frames, colour)
            assert not seen[~visible].any()
            assert (seen[visible] > 15).mean() > 0.7 if visible.any() else True


@pytest.mark.parametrize("size", [(160, 120), (128, 128), (192, 108), (320, 240)])
def test_whole_shapes_stay_inside_the_frame(size, drawn_as):
    drawn_as(10.0, 6, size)
    for seed in range(5):
        scene = draw_scene(seed)
        frames = render_frames(scene, range(scene.num_frames))
        border = np.concatenate([frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]], axis=1)[:, None]
        assert not any(count_pixels(border, colour).any() for colour in COLOURS)


def test_shapes_are_rarely_covered():
    for seed in range(30):
        scene = draw_scene(seed)
        tracks = scene.tracks[-len(scene.events) :]
        covered = [world._covered(a, b, scene.fps, scene.size) for a, b in combinations(tracks, 2)]
        assert max(covered) <= 0.15


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": 0, "split": "dev"}])
def test_impossible_scenes_are_refused(options):
    with pytest.raises(ArgumentError, match="expected seed >= 0"):
        draw_scene(**options)


def test_an_mp4_holds_the_frames_that_were_painted(tmp_path, drawn_as):
    drawn_as(5.0, 8, (160, 120))
    scene = draw_scene(2)
    world.write_clip(scene, tmp_path / "clip.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
    assert [time for time, _ in decoded] == pytest.approx(np.arange(40) / 8)
    painted = render_frames(scene, range(40)).astype(float)
    error = np.abs(np.stack([pixels for _, pixels in decoded]) - painted)
    assert error.mean() < 6
    for event in scene.events:
        index = round(event.span.start * 8)
        of_colour = (np.abs(painted[index] - COLOURS[pair_of(event)[0]]) <= 20).all(-1)
        assert np.median(error[index][of_colour]) < 20


def test_a_dataset_resumes_and_repeats_itself(tmp_path, drawn_as):
    drawn_as(4.0, 6, (128, 128))
    options = {"split": "test", "seed": 3}
    scenes = world.write_dataset(tmp_path / "a", num_clips=3, **options)
    kept, lost = (tmp_path / "a" / "videos" / f"test_0000{k}.mp4" for k in (0, 1))
    before = kept.stat().st_mtime_ns
    wanted = lost.read_bytes()
    lost.unlink()
    assert world.write_dataset(tmp_path / "a", num_clips=3, **options) == scenes
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == wanted
    world.write_dataset(tmp_path / "b", num_clips=3, workers=2, **options)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 6 + 3
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    for other in ({"seed": 4}, {"split": "train"}):
        with pytest.raises(DataError, match=r"other settings \(dataset.json\)"):
            world.write_dataset(tmp_path / "a", num_clips=3, **{**options, **other})


def test_annotations_tell_what_the_scenes_show(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "write_clip", lambda scene, path: path.touch())
    scenes = world.write_dataset(tmp_path, num_clips=12, split="shifted", seed=0)
    files = {
        name: json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("scenes", "dvc", "rtl", "event_loc", "vidqa")
    }
    assert [path.stem for path in scenes] == list(files["dvc"]) == [entry["video"] for entry in files["vidqa"]]
    for k, (path, scene) in enumerate(scenes.items()):
        assert scene == draw_scene(k, "shifted") and path.exists()
        told, spans = files["scenes"][path.stem], [[e.span.start, e.span.end] for e in scene.events]
        assert (told["fps"], told["num_frames"]) == (scene.fps, scene.num_frames)
        assert (told["width"], told["height"]) == scene.size
        assert [e["name"] for e in told["events"]] == [name_of(e) for e in scene.events]
        assert [[e["start"], e["end"]] for e in told["events"]] == files["dvc"][path.stem]["timestamps"] == spans
        assert files["dvc"][path.stem]["sentences"] == [f"A {name_of(e)} is visible." for e in scene.events]
    for task in ("rtl", "event_loc"):
        assert all(e.keys() >= {"vid", "question", "answer", "duration", "question_id"} for e in files[task])
        assert len({entry["question_id"] for entry in files[task]}) == len(files[task]) == 12
    assert all(entry["QA"] and entry["QA"][0].keys() == {"q", "a"} for entry in files["vidqa"])


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}'])
def test_a_folder_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        world.write_dataset(tmp_path, num_clips=1, split="test", seed=0)


milliseconds = st.integers(0, 20_000)


@st.composite
def some_events(draw):
    ends = draw(st.lists(st.tuples(milliseconds, milliseconds).map(sorted), max_size=5))
    return tuple(shown("red", "circle", Span(a / 1000, (b + 1) / 1000)) for a, b in ends)


def rounded(events):
    return [(name_of(event), round(event.span.start, 6), round(event.span.end, 6)) for event in events]


@given(some_events())
def test_cutting_all_changes_nothing(events):
    assert cut(events, 0.0, 21.0) == events


@given(some_events(), st.lists(milliseconds, min_size=4, max_size=4, unique=True).map(sorted))
def test_a_cut_of_a_cut_is_a_cut(events, times):
    outer, inner_start, inner_stop, outer_stop = (time / 1000 for time in times)
    nested = cut(cut(events, outer, outer_stop), inner_start - outer, inner_stop - outer)
    assert rounded(nested) == rounded(cut(events, inner_start, inner_stop))


@given(some_events(), milliseconds, st.integers(1, 5000))
def test_cut_events_lie_inside_the_cut(events, start, length):
    kept = cut(events, start / 1000, (start + length) / 1000)
    assert all(0 <= event.span.start < event.span.end <= length / 1000 + 1e-9 for event in kept)
    shown = [e for e in events if e.span.start < (start + length) / 1000 and e.span.end > start / 1000]
    assert len(kept) == len(shown)


def test_an_empty_cut_shows_nothing():
    assert cut([shown("red", "circle", Span(1.0, 3.0))], 2.0, 2.0) == ()
