"""LITA's tasks on annotated records, and samples drawn at rates from (seed, number) alone.

The latter is what resuming, workers and ranks rest on.
"""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from PIL import Image
from torch.utils.data import DataLoader

import tiny_lita
import tiny_videos
from timetok.errors import DataError, VideoError
from timetok.recipes.records import Event, Record
from timetok.recipes.tasks import TASKS, WORDINGS, Mixture, Turn, Videos, pick_name, pixels_of
from timetok.timegrid import Span

RATES = {"activitynet": {"dvc": 5, "event_loc": 5}, "youcook2": {"dvc": 1, "event_loc": 1}, "rtl": {"rtl": 6}}
EVENTS = (
    Event("A man {runs} to the left.", Span(4.0, 9.5)),
    Event("He falls.", Span(1.25, 3.0)),
)
TURNS = (("why did he fall", "tired"), ("when does he fall", "<1.25> <3.00> He is tired."))


def record(events=EVENTS, turns=TURNS) -> Record:
    asked = [Event(question, None, answer) for question, answer in turns]
    return Record("v", "v", Path("v.mp4"), 30.0, (*events, *asked), "")


def drawn(task, num=60, **options):
    return [TASKS[task](record(**options), np.random.default_rng(seed)) for seed in range(num)]


def test_there_are_the_five_of_lita():
    assert TASKS.keys() == {"dvc", "event_loc", "vidqa", "imgqa", "rtl"}
    assert {len(WORDINGS["when"]) * len(WORDINGS["only_times"])} == {12}
    assert {len(WORDINGS["describe"]) * len(WORDINGS["times_first"])} == {12}


def test_dense_captions_are_in_the_order_of_their_starts():
    turns = [turn for (turn,) in drawn("dvc", 400)]
    answer = "<1.25> <3.00> He falls. <4.00> <9.50> A man {runs} to the left."
    assert {turn.answer for turn in turns} == {answer} and len({turn.question for turn in turns}) == 12


def test_event_localisation_quotes_the_caption_in_small_letters_without_its_full_stop():
    turns = [turn for (turn,) in drawn("event_loc", 600)]
    assert {turn.answer for turn in turns} == {"<4.00> <9.50>", "<1.25> <3.00>"}
    assert all('"a man {runs} to the left"' in t.question for t in turns if t.answer == "<4.00> <9.50>")
    assert all('"he falls"' in t.question for t in turns if t.answer != "<4.00> <9.50>")
    assert len({turn.question for turn in turns}) == 2 * 12


def test_video_questions_are_all_asked_with_the_wish_for_short_answers():
    for first, second in drawn("vidqa"):
        assert (first.answer, second.answer) == ("tired", TURNS[1][1])
        assert first.question.removeprefix("why did he fall ") in WORDINGS["short"]


def test_image_instructions_stay_as_they_are():
    assert drawn("imgqa", 1) == [[Turn(*TURNS[0]), Turn(*TURNS[1])]]


def test_reasoning_asks_one_question_as_it_is():
    assert {turn for (turn,) in drawn("rtl")} == {Turn(*TURNS[0]), Turn(*TURNS[1])}


@pytest.mark.parametrize("task", TASKS)
def test_a_poor_record_is_not_asked_about(task):
    assert drawn(task, 1, events=(), turns=()) == [[]]


def test_names_come_at_their_rates():
    rng, rates = np.random.default_rng(0), {"a": 3, "b": 0, "c": 1.0}
    drawn = Counter(pick_name(rng, rates) for _ in range(4000))
    assert drawn.keys() == {"a", "c"} and abs(drawn["a"] - 3000) < 4 * np.sqrt(4000 * 0.75 * 0.25)


class Blind:
    """Records without a video, whose name and number are in the text."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width = name, width

    def __call__(self, rng, rates, tasks):
        event = Event(f"{self.name} {rng.integers(10**6)}", Span(1.0, 2.0))
        why = Event("why?", Span(1.0, 2.0), f"<1.00> <2.00> {event.text}")
        record = Record(self.name, self.name, None, 10.0, (event, why), "")
        turns = tasks[pick_name(rng, rates)](record, rng)
        return turns, {"duration_seconds": 10.0, "video_features": torch.zeros(self.width, 3)}


@pytest.fixture(scope="module")
def processor():
    return tiny_lita.build()[1]


@pytest.fixture(scope="module")
def mixture(processor):
    sources = {name: Blind(name, processor.num_video_tokens) for name in RATES}
    return Mixture(sources=sources, tasks=TASKS, rates=RATES, processor=processor, num_samples=6000, seed=3)


def test_sources_and_tasks_come_at_their_rates(mixture):
    counts = Counter()
    for k in range(len(mixture)):
        ((question, answer),) = mixture[k]["turns"]
        task = "rtl" if "why?" in question else "event_loc" if answer.count(" ") == 2 else "dvc"
        counts[next(name for name in RATES if name in question + answer), task] += 1
    total = sum(sum(tasks.values()) for tasks in RATES.values())
    for source, tasks in RATES.items():
        for task, rate in tasks.items():
            share = rate / total
            assert abs(counts[source, task] - 6000 * share) < 4 * np.sqrt(6000 * share * (1 - share))
    assert sum(counts.values()) == 6000


def test_a_sample_depends_on_seed_and_number_alone(mixture, processor):
    again = pickle.loads(pickle.dumps(mixture.sources)), dict(tasks=TASKS, rates=RATES, processor=processor)
    same = Mixture(sources=again[0], **again[1], num_samples=50, seed=3)
    other = Mixture(sources=again[0], **again[1], num_samples=50, seed=4)
    numbers = np.random.default_rng(0).permutation(50)
    assert [same[k]["turns"] for k in numbers] == [mixture[k]["turns"] for k in numbers]
    assert sum(other[k]["turns"] == mixture[k]["turns"] for k in range(50)) < 5


class Numbered(torch.utils.data.Dataset):
    """Gives the number of a sample beside it."""

    def __init__(self, mixture) -> None:
        self.mixture = mixture

    def __len__(self):
        return 48

    def __getitem__(self, index):
        return index, self.mixture[index]["turns"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_ranks_of_two_workers_share_all_samples_without_repeats_or_gaps(mixture):
    seen = []
    for rank in range(2):
        loader = DataLoader(Numbered(mixture), batch_size=4, num_workers=2, collate_fn=list, shuffle=False)
        shard = prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False)
        seen.append([pair for batch in shard for pair in batch])
    numbers = [number for rank in seen for number, _ in rank]
    assert sorted(numbers) == list(range(48)) and {len(rank) for rank in seen} == {24}
    assert all(turns == mixture[number]["turns"] for rank in seen for number, turns in rank)


def test_a_batch_is_padded_on_the_right_and_cut_at_its_length(mixture, processor):
    rows = [mixture[k] for k in range(4)]
    batch = mixture.collate(rows)
    assert batch.keys() == {"input_ids", "labels", "video_features"}
    assert batch["video_features"].shape == (4, processor.num_video_tokens, 3)
    longest = batch["input_ids"].shape[1]
    short = Mixture(**{**vars(mixture), "max_length": longest - 3}).collate(rows)
    assert torch.equal(short["labels"], batch["labels"][:, : longest - 3])


def test_sources_that_are_not_there_are_named(mixture):
    with pytest.raises(DataError, match=r"expected sources among.*youcook2.*nosuch"):
        Mixture(**{**vars(mixture), "rates": {"nosuch": {"dvc": 1}}})


def test_a_task_of_ones_own_is_a_function(processor):
    def how_many(record, rng):
        return [Turn("How many events are there?", str(len(record.events)))]

    event = Event("He falls.", Span(1.0, 2.0))
    records = [Record("v", "v", Path("v.mp4"), 10.0, (event,) * 4, ""), Record("w", "w", Path("w.mp4"), 9.0, (), "")]
    rates, tasks = {"dvc": 0, "how_many": 1}, {**TASKS, "how_many": how_many}
    seen = {record.media: torch.zeros(2, 3) for record in records}
    drawn = [Videos(records, processor, seen)(np.random.default_rng(k), rates, tasks) for k in range(40)]
    assert {(turn.answer, row["duration_seconds"]) for (turn,), row in drawn} == {("4", 10.0), ("0", 9.0)}
    assert all(
        row["video_features"] is seen[Path("v.mp4" if turn.answer == "4" else "w.mp4")] for (turn,), row in drawn
    )


def test_records_that_hold_nothing_to_ask_do_not_hang(mixture):
    empty = {"rtl": lambda rng, rates, tasks: ([], {})}
    with pytest.raises(DataError, match="a thousand records"):
        Mixture(**{**vars(mixture), "sources": empty, "rates": {"rtl": {"rtl": 1}}})[0]


def test_media_are_videos_folders_of_pictures_and_images(tmp_path: Path, processor):
    video = tiny_videos.write(tmp_path / "a.mp4", 9, fps=4)
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    image = folder / "2.png"
    num = processor.num_frames
    assert torch.equal(pixels_of(video, processor), processor.frame_transform(processor.read(video).data))
    frames = pixels_of(folder, processor)
    assert len(frames) == num and torch.equal(frames[-1], pixels_of(image, processor)[0])
    still = pixels_of(image, processor)
    assert len(still) == num and torch.equal(still, still[:1].expand_as(still))
    image.write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"2\.png is no picture"):
        pixels_of(image, processor)
