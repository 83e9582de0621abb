"""Videos of hours: which windows are asked about, what comes of it, and the parts of files that are read for it."""

import json
import runpy
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from long_videos import Recent, chart, remembering
from timetok import Span, localize, localize_long
from timetok.cli import main
from timetok.errors import ArgumentError, DataError, ModelFolderError, PromptError, VideoNotFoundError
from timetok.hub import HubLocalizer, LongAnswer, load_localizer
from timetok.lita.answer import Answer, Localizer, load_sample
from timetok.recipes.search import TwoTowers, fits, index
from timetok.timegrid import iou
from timetok.video import Frames, Part, iter_frames, read_frames
from tiny_video_lms import save
from tiny_videos import decode_everything, numbers, write

QUESTION = "When does the woman open the door?"


class Knowing(Localizer):
    """Knows when something happens, as exactly as its steps allow; where nothing does, it may tell a lie.

    It sees no pixels: a frame's value is the second at which it stands, which tells it where the window is.
    """

    def __init__(self, *truths: Span, num_steps: int = 99, lies: bool = False) -> None:
        self.truths, self.num_steps, self.lies, self.windows = truths, num_steps, lies, list[Span]()
        self.tt = SimpleNamespace(time_token_ids=range(100))

    def read(self, video: Any) -> Frames:
        return video

    def encode(self, frames: Frames) -> Frames:
        return frames

    def check_question(self, question: str) -> None:
        if not question:
            raise PromptError("question: empty")

    def ask(self, clips: Any, questions: Any, durations: Any, **_: Any) -> list[Answer]:
        (frames,), (length,) = clips, durations
        low, high = frames.data[-1, :2, 0, 0].tolist()  # the second of the last frame
        begin = low + 256 * high - float(frames.times_seconds[-1])
        self.windows.append(Span(begin, begin + length))
        step, told = length / self.num_steps, []
        for truth in self.truths:
            low, high = max(truth.start, begin), min(truth.end, begin + length)
            if low < high:
                ends = [min(round((end - begin) / step) * step, length) for end in (low, high)]
                told.append(Span(*ends))
        if self.lies and not told:
            told = [Span(0.3 * length, 0.4 * length)]
        confidences = (0.9,) * len(told[:1])
        return [Answer("", tuple(told[:1]), confidences, (), length, num_tokens=100)]

    def weigh(self, *asked: Any) -> list[Answer]:
        return self.ask(*asked)


def film(minutes: float) -> Frames:
    """A frame each second, which tells the second."""
    num = round(60 * minutes)
    data = torch.zeros(num, 3, 1, 1, dtype=torch.uint8)
    data[:, 0, 0, 0], data[:, 1, 0, 0] = torch.arange(num) % 256, torch.arange(num) // 256
    return Frames(data, torch.arange(num).double(), float(num))


def scores(duration: float, *truths: Span) -> tuple[np.ndarray, np.ndarray]:
    moments = np.arange(0, duration, 0.5)
    return moments, np.array([any(t.start <= moment <= t.end for t in truths) for moment in moments], dtype=float)


spans = st.tuples(st.floats(0, 3560), st.floats(5, 30)).map(lambda pair: Span(pair[0], pair[0] + pair[1]))


@given(spans, st.booleans())
@settings(max_examples=60)
def test_an_event_found_by_the_search_is_located_to_the_resolution(truth: Span, lies: bool) -> None:
    known = Knowing(truth, lies=lies)
    answer = localize_long(film(60), QUESTION, known, scores=scores(3600.0, truth), resolution_seconds=0.25)
    (span,) = answer.spans
    told = [(w, Span(*(w.start + end for end in a.spans[0]))) for w, a in answer.tried if a.spans]
    last = min((window for window, found in told if found == span), key=lambda window: window.duration_seconds)
    step = last.duration_seconds / known.num_steps
    assert max(abs(span.start - truth.start), abs(span.end - truth.end)) <= step / 2 + 1e-6
    # a closer window is at most 4 / 5 as long: 2.5 times the span, or 25 seconds
    assert step <= max(0.25, 2.5 * (truth.duration_seconds + 60 / 99) / known.num_steps) / 0.8
    assert answer.duration_seconds == 3600 and answer.times_seconds == (span.start, span.end)
    for (window, _), seen in zip(answer.tried, known.windows, strict=True):
        assert (window.start, window.end) == pytest.approx((seen.start, seen.end))
    assert answer.num_tokens == 100 * len(answer.tried) <= 100 * 5 * 5
    assert all(0 <= window.start < window.end <= 3600 for window, _ in answer.tried)


@given(spans)
@settings(max_examples=30)
def test_without_a_search_every_moment_is_asked_about(truth: Span) -> None:
    answer = localize_long(film(60), QUESTION, Knowing(truth))
    assert iou(answer.spans[0], truth) > 0.8
    first = sorted(window for window, _ in answer.tried if abs(window.duration_seconds - 60) < 1e-9)
    assert first[0].start == 0 and first[-1].end == 3600
    assert all(later.start - earlier.start <= 30 + 1e-9 for earlier, later in pairwise(first))


def test_what_goes_on_outside_a_window_is_followed() -> None:
    truth = Span(1000.0, 1300.0)
    moments, fits = scores(3600.0, truth)
    fits[moments % 5 < 2] = 0  # not all of it is recognised
    answer = localize_long(film(60), QUESTION, Knowing(truth), scores=(moments, fits))
    assert iou(answer.spans[0], truth) > 0.9
    assert max(window.duration_seconds for window, _ in answer.tried) >= 300


def test_where_the_answer_misses_the_peak_a_closer_look_is_taken_there() -> None:
    truth = Span(1000.0, 1006.0)

    class Distracted(Knowing):
        """Sees the event in short windows alone."""

        def ask(self, clips: Any, questions: Any, durations: Any, **_: Any) -> list[Answer]:
            found = super().ask(clips, questions, durations)
            return found if durations[0] <= 30 else [Answer("", (Span(1.0, 9.0),), (0.9,), (), durations[0])]

    answer = localize_long(film(60), QUESTION, Distracted(truth), scores=scores(3600.0, truth))
    assert iou(answer.spans[0], truth) > 0.9


def test_several_spans_come_best_first_and_apart() -> None:
    truths = Span(100.0, 110.0), Span(2000.0, 2020.0), Span(3000.0, 3008.0)
    given = scores(3600.0, *truths)
    given[1][given[0] > 2900] *= 0.9  # the last fits a little less
    answer = localize_long(film(60), QUESTION, Knowing(*truths, lies=True), scores=given, max_spans=3)
    assert len(answer.spans) == 3 and list(answer.confidences) == sorted(answer.confidences, reverse=True)
    for truth in truths:
        assert max(iou(span, truth) for span in answer.spans) > 0.9
    assert iou(answer.spans[2], truths[2]) > 0.9
    assert len(localize_long(film(60), QUESTION, Knowing(*truths), scores=given).spans) == 1


def test_no_answer_is_no_span() -> None:
    answer = localize_long(film(5), QUESTION, Knowing())
    assert (answer.spans, answer.confidences, answer.text) == ((), (), "") and answer.tried


def test_a_video_shorter_than_a_window_is_one() -> None:
    answer = localize_long(film(0.5), QUESTION, Knowing(Span(3, 9)), scores=scores(30.0, Span(3, 9)))
    assert answer.tried[0][0] == Span(0, 30) and iou(answer.spans[0], Span(3, 9)) > 0.9


def test_other_ways_to_ask_are_taken() -> None:
    def ask(clips: Any, questions: Any, durations: Any) -> list[Answer]:
        return [Answer("", (Span(0.0, durations[0] / 2),), (0.5,), (), durations[0])]

    answer = localize_long(film(0.5), QUESTION, Knowing(), scores=scores(30.0, Span(0, 30)), ask=ask)
    assert answer.tried[0][1].spans == (Span(0, 15),)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"window_seconds": 0}, "window_seconds, resolution_seconds must be > 0, got \\(0, "),
        ({"window_seconds": float("nan")}, "window_seconds, resolution_seconds must be > 0, got \\(nan, 0.25\\)"),
        ({"resolution_seconds": -1.0}, "window_seconds, resolution_seconds must be > 0"),
        ({"num_windows": 2.5}, "num_windows: expected an integer of at least 1, got 2.5"),
        ({"max_spans": 0}, "max_spans: expected an integer of at least 1, got 0"),
    ],
)
def test_numbers_are_positive(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        localize_long(film(1), QUESTION, Knowing(), **wrong)


@pytest.mark.parametrize(
    "curve",
    [
        ([1.0, 2.0], [0.5]),
        ([], []),
        ([2.0, 1.0], [0.5, 0.5]),
        ([1.0, 2.0], [0.5, float("nan")]),
        ([1000.0, 2000.0], [0.5, 0.6]),  # milliseconds
        ([-1.0, 2.0], [0.5, 0.6]),
    ],
)
def test_scores_are_told_moment_by_moment(curve: Any) -> None:
    with pytest.raises(ArgumentError, match=r"scores: expected moments within 60.0 s, in order, and a finite score"):
        localize_long(film(1), QUESTION, Knowing(), scores=curve)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_scores_come_as_lists_arrays_and_tensors(kind: Any) -> None:
    moments, fits = ([float(k) for k in range(60)], [float(10 <= k < 20) for k in range(60)])
    answer = localize_long(film(1), QUESTION, Knowing(Span(10, 20)), scores=(kind(moments), kind(fits)))
    assert iou(answer.spans[0], Span(10, 20)) > 0.9


@pytest.mark.parametrize("fits", [np.ones(60), np.zeros(60), np.r_[np.zeros(5), np.ones(55)]])
def test_a_search_that_prefers_nothing_leaves_the_confidence_to_the_model(fits: np.ndarray) -> None:
    answer = localize_long(film(1), QUESTION, Knowing(Span(10, 20)), scores=(np.arange(60.0), fits))
    assert answer.confidences == (0.9,) and iou(answer.spans[0], Span(10, 20)) > 0.9
    assert localize_long(film(1), QUESTION, Knowing(Span(10, 20)), scores=([15.0], [0.3])).confidences == (0.9,)


def test_windows_of_any_length_cover_the_video() -> None:
    known = Knowing()
    localize_long(film(10), QUESTION, known, window_seconds=10.2)
    ordered = sorted(known.windows)
    assert all(later.start <= earlier.end for earlier, later in pairwise(ordered)) and len(ordered) > 100


def test_no_more_frames_are_shown_than_marks_can_tell() -> None:
    class Counting(Knowing):
        shown: list[int] = []  # noqa: RUF012

        def encode(self, frames: Frames) -> Frames:
            self.shown.append(len(frames))
            return frames

    localize_long(film(30), QUESTION, Counting(Span(100, 900), num_steps=9), scores=scores(1800.0, Span(100, 900)))
    assert max(Counting.shown) <= 10


def test_frames_may_begin_late() -> None:
    data, times = film(1).data[:2], torch.tensor([30.0, 50.0], dtype=torch.float64)
    assert not localize_long(Frames(data, times, 200.0), QUESTION, Knowing()).spans


def test_a_hub_model_needs_a_search(tmp_path: Path) -> None:
    model = load_localizer(save(tmp_path / "model", "qwen2_5_vl"))
    assert isinstance(model, HubLocalizer)
    with pytest.raises(ArgumentError, match="scores: needed by a model that writes times as text"):
        localize_long(film(1), QUESTION, model)
    path, _, truth = load_sample()
    moments = np.arange(0, 16, 0.5)
    answer = localize_long(path, QUESTION, model, scores=(moments, (moments > truth.start) * 1.0), window_seconds=8)
    assert answer.tried and all(span.end <= 16 for span in answer.spans) and answer.num_tokens > 0


def test_a_question_and_a_video_are_needed(tmp_path: Path) -> None:
    with pytest.raises(PromptError):
        localize_long(film(1), "", Knowing())
    with pytest.raises(VideoNotFoundError):
        localize_long(tmp_path / "lost.mp4", QUESTION, Knowing())


# parts of files


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("parts") / "clip.mp4", 60, fps=10)


@given(st.floats(0, 5.9), st.floats(0.01, 6), st.integers(1, 30))
@settings(max_examples=80)
def test_a_part_has_the_frames_shown_in_it(file: Path, start: float, length: float, num: int) -> None:
    end = min(start + length, 6.0)
    frames = read_frames(Part(file, Span(start, end)), num)
    times = [Fraction(k, 10) for k in range(60)]
    first = max(k for k, time in enumerate(times) if time <= start)
    last = max([first, *(k for k, time in enumerate(times) if time < end)])
    expected = [first + round(k) for k in np.linspace(0, last - first, num)]
    assert numbers(frames) == expected
    assert frames.duration_seconds == pytest.approx(end - start)
    assert frames.times_seconds.tolist() == pytest.approx([max(k / 10 - start, 0) for k in expected])


def test_the_whole_is_a_part(file: Path) -> None:
    whole, part = read_frames(file, 17), read_frames(Part(file, Span(0, 6)), 17)
    assert torch.equal(whole.data, part.data) and torch.equal(whole.times_seconds, part.times_seconds)
    assert len(decode_everything(file)[0]) == 60


@pytest.mark.parametrize("ending", ["ts", "mkv"])
def test_a_part_of_a_file_that_begins_amid_a_group(tmp_path: Path, ending: str) -> None:
    """Its first packets show nothing: times count from the first frame that does, as they do in the whole."""
    import av

    source, path = write(tmp_path / f"whole.{ending}", 80, fps=8, gop=20), tmp_path / f"cut.{ending}"
    with av.open(str(source)) as given, av.open(str(path), "w") as taken:
        stream = taken.add_stream_from_template(given.streams.video[0])
        for packet in list(given.demux(video=0))[5:]:
            if packet.dts is not None:
                packet.stream = stream
                taken.mux(packet)
    whole = read_frames(path, 1000)
    known = dict(zip(whole.times_seconds.tolist(), numbers(whole), strict=True))
    part = read_frames(Part(path, Span(3, 4)), 8)
    shown = [max(time for time in known if time <= 3 + after + 1e-9) for after in part.times_seconds.tolist()]
    assert numbers(part) == [known[time] for time in shown]


@pytest.mark.parametrize("span", [Span(2, 2), Span(1, 6.5), Span(-1, 2)])
def test_a_part_lies_in_its_video(file: Path, span: Span) -> None:
    with pytest.raises(ArgumentError, match=r"source: expected a part of 6.0 seconds that has a length"):
        read_frames(Part(file, span), 3)


# the example: a search by a CLIP, streams, a figure


class Bright:
    """Fits frames by their brightness; asked, it likes bright ones."""

    name, size = "bright", (8, 8)

    def frames(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean((1, 2, 3))[:, None] / 255

    def text(self, question: str) -> torch.Tensor:
        return torch.ones(1)


def flashing(path: Path, seconds: int, light: range) -> Path:
    """Two frames a second, dark but for some seconds."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"g": "20"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(2 * seconds):
            pixels = np.full((48, 64, 3), 230 if k // 2 in light else 20, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_an_index_finds_its_frames_and_is_kept(tmp_path: Path) -> None:
    path = flashing(tmp_path / "film.mp4", 200, range(120, 140))
    first = index(path, Bright(), tmp_path / "index", every_seconds=1.0)
    moments, curve = fits(*first, Bright(), QUESTION)
    assert moments.tolist() == list(range(200)) and 118 <= moments[curve.argmax()] <= 141
    assert curve[125:135].min() > 0.7 > 0.3 > curve[:115].max()
    (shard,) = (tmp_path / "index").glob("*.safetensors")
    before = shard.stat().st_mtime_ns
    again = index(path, Bright(), tmp_path / "index", every_seconds=1.0)
    assert all(map(torch.equal, again, first)) and shard.stat().st_mtime_ns == before
    with pytest.raises(DataError, match="other settings"):
        index(path, Bright(), tmp_path / "index")


def test_the_last_minutes_of_a_stream(tmp_path: Path) -> None:
    path = flashing(tmp_path / "film.mp4", 200, range(150, 160))
    recent = Recent(Bright(), seconds=90, every_seconds=1.0)
    with path.open("rb") as stream:
        recent.take(iter_frames(stream, size=(8, 8), every_seconds=1.0))
    assert len(recent.kept) == 90  # what came before is gone

    class Seeing(Localizer):
        """Says when it is bright."""

        num_steps = 99
        tt = SimpleNamespace(time_token_ids=())  # so that it is asked, not weighed

        def __init__(self) -> None: ...

        def read(self, video: Any) -> Frames:
            return video

        def encode(self, frames: Frames) -> Frames:
            return frames

        def check_question(self, question: str) -> None: ...

        def ask(self, clips: Any, questions: Any, durations: Any, **_: Any) -> list[Answer]:
            lit = clips[0].times_seconds[clips[0].data.float().mean((1, 2, 3)) > 128].tolist()
            found = (Span(lit[0], min(lit[-1] + 1, durations[0])),) if lit else ()
            return [Answer("", found, (), (), durations[0])]

    answer, begin = recent.ask(QUESTION, Seeing())
    assert begin == 110.0
    assert Span(answer.spans[0].start + begin, answer.spans[0].end + begin) == Span(150, 160)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP, tiny and random, with the processor of the published ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    words = {word: k for k, word in enumerate(["<unk>", "<pad>", "<end>", "When", "does", "it", "rain", "?"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<end>", model_max_length=12
    )
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": 8, "max_position_embeddings": 12, "eos_token_id": 2, "pad_token_id": 1}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_a_clip_of_transformers_is_a_matcher(clip_folder: Path) -> None:
    from transformers import AutoProcessor, CLIPModel

    towers = TwoTowers(clip_folder)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found, text = towers.frames(pixels), towers.text("When does it rain?")
    assert found.shape == (3, 8) and text.shape == (8,) and towers.size == 32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    model, processor = CLIPModel.from_pretrained(clip_folder), AutoProcessor.from_pretrained(clip_folder)
    inputs = processor(text=["When does it rain?"], images=list(pixels), return_tensors="pt", padding="max_length")
    with torch.no_grad():
        expected = model(**inputs)
    torch.testing.assert_close(found @ text, expected.logits_per_image[:, 0] / model.logit_scale.exp().detach())
    assert TwoTowers(clip_folder).name == towers.name
    with pytest.raises(ModelFolderError):
        TwoTowers(clip_folder / "nothing")


def test_the_bundled_model_is_led_by_a_search(tmp_path: Path) -> None:
    """The sample clip, its event found by the one who knows, as in an hour of it."""
    path, question, truth = load_sample()
    moments = np.arange(0, 16, 0.5)
    curve = np.array([truth.start <= moment <= truth.end for moment in moments], dtype=float)
    answer = localize_long(path, question, Localizer.load(), scores=(moments, curve), resolution_seconds=0.1)
    assert isinstance(answer, LongAnswer) and iou(answer.spans[0], truth) > 0.7
    figure = chart(answer, (moments, curve), question=question, truth=[truth])
    assert len(figure.axes) == 2 and len(figure.axes[1].lines) >= len(answer.tried)


def test_questions_share_windows_and_nothing_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, question, _ = load_sample()
    other, encoded, asked = "When is the blue square visible?", list[Any](), list[str]()
    encode, weigh = Localizer.encode, Localizer.weigh
    monkeypatch.setattr(Localizer, "encode", lambda self, frames: encoded.append(frames) or encode(self, frames))
    monkeypatch.setattr(
        Localizer, "weigh", lambda self, clips, each, *rest: asked.extend(each) or weigh(self, clips, each, *rest)
    )

    def ask_both(localizer: Any) -> list[LongAnswer]:
        options: Any = {"window_seconds": 8, "resolution_seconds": 1}
        return [localize_long(path, each, localizer, **options) for each in (question, other)]

    alone = ask_both(Localizer.load())
    tried = [{window for window, _ in answer.tried} for answer in alone]
    num_asked = sum(map(len, tried))  # a window may be come by twice
    assert len(tried[0] & tried[1]) >= 3 and len(asked) >= num_asked
    del encoded[:], asked[:]
    for _ in range(2):  # the second time all is known, whatever was in memory
        assert ask_both(remembering(Localizer.load(), tmp_path)) == alone
        assert len(asked) == num_asked and len(encoded) == len(tried[0] | tried[1])

    file = tmp_path / "answers-0-of-1.jsonl"  # stopped amid a line
    file.write_bytes(file.read_bytes()[:-20])
    localizer = remembering(Localizer.load(), tmp_path)
    assert ask_both(localizer) == alone and len(asked) == num_asked + 1
    assert localize(path, question, localizer) == localize(path, question)  # what is no part is asked as ever
    localizer.model.half()  # another dtype may answer otherwise
    with pytest.raises(DataError, match="other settings"):
        remembering(localizer, tmp_path)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    path, question, _ = load_sample()
    assert main(["localize", str(path), question, "--long"]) == 0
    assert "(confidence: " in capsys.readouterr().out
    assert main(["localize", str(path), question, "--long", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["spans"] and told["tried"] and told["num_tokens"] > 0


def test_the_command_line_searches(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, question, _ = load_sample()
    assert main(["localize", str(path), question, question, "--search", str(clip_folder), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == 2 and told[0]["tried"] == told[1]["tried"]
    assert len(list((tmp_path / "runs" / "index").glob("*.safetensors"))) == 1
    assert main(["localize", str(path), question, "--search", str(clip_folder), "--stream"]) == 2
    assert main(["localize", str(path), question, "--search", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_example_runs_with_a_clip(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, question, _ = load_sample()
    plot = tmp_path / "search.png"
    line = [str(path), question, "--clip", str(clip_folder), "--index", str(tmp_path / "index"), "--plot", str(plot)]
    script = Path(__file__).parent.parent / "examples" / "long_videos.py"
    monkeypatch.setattr("sys.argv", [str(script), *line])
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    assert "windows" in out and plot.stat().st_size > 10_000
