"""Video language models as published, small and random: what they are shown, what they may answer, what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

import timetok
from timetok.cli import main
from timetok.errors import ArgumentError, ModelFolderError, PromptError, VideoNotFoundError
from timetok.hub import HubLocalizer, load_localizer
from timetok.lita.answer import Localizer
from timetok.recipes.evaluate import evaluate_model, read_questions
from timetok.video import Frames
from tiny_lita import noise, write_clip
from tiny_video_lms import MAKERS, save

QUESTION = "When does the woman open the door?"
TIMES = [0.0, 1.04, 7.5, 30.26, 30.3, 71.92]  # as a screen recording has them: no frame rate would give these
DURATION = 75.5


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def saved(name: str) -> Path:
        return folders.get(name) or folders.setdefault(name, save(tmp_path_factory.mktemp("hub") / name, name))

    return saved


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(autouse=True)
def settings_as_before(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line quietens transformers for its process."""
    from transformers.utils import logging

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    level = logging.get_verbosity()
    yield
    logging.set_verbosity(level)
    logging.enable_progress_bar()


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Path:
    return folder_of(request.param)


def frames() -> Frames:
    return Frames(noise(len(TIMES)), torch.tensor(TIMES, dtype=torch.float64), DURATION)


def shown(localizer: HubLocalizer, question: str = QUESTION) -> str:
    """The prompt as the model reads it."""
    ids = localizer.prepare(frames(), question, DURATION)["input_ids"][0]
    return str(localizer.processor.tokenizer.decode(ids))


# -------------------------------------------------------------------------------------------------------- answers


def test_a_file_a_question_and_a_folder_give_a_span(folder: Path, clip: Path) -> None:
    answer = timetok.localize(clip, QUESTION, model=folder)
    (span,) = answer.spans
    assert 0 <= span.start <= span.end <= answer.duration_seconds == pytest.approx(2.0)
    assert re.fullmatch(r"[0-9]+\.[0-9] - [0-9]+\.[0-9] seconds", answer.text)
    assert answer.times_seconds == (span.start, span.end) and answer.confidences == ()


def test_several_questions_are_answered_as_each_alone(folder: Path, clip: Path) -> None:
    localizer = load_localizer(folder, num_frames=4)
    file = localizer.read(clip)
    clips, durations = [file, frames(), file], [2.0, DURATION, 2.0]
    questions = [QUESTION, "And then?", "When is it?"]
    together = localizer.ask(clips, questions, durations)
    for row in zip(clips, questions, durations, together, strict=True):
        assert localizer.ask(*([value] for value in row[:3])) == [row[3]]
        assert row[3].duration_seconds == row[2] >= row[3].spans[0].end


def test_half_precision_answers_too(folder: Path) -> None:
    localizer = load_localizer(folder)
    localizer.model.to(torch.bfloat16)
    assert len(localizer.ask([frames()], [QUESTION], [DURATION])[0].spans) == 1


def test_what_a_checkpoint_prefers_in_generation_is_not_asked_for(folder_of: Any) -> None:
    """Qwen2.5-VL's checkpoints sample, and punish the second zero of 10.0."""
    localizer = load_localizer(folder_of("qwen2_5_vl"))
    before = localizer.ask([frames()], [QUESTION], [DURATION])
    localizer.model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=9.0)
    assert localizer.ask([frames()], [QUESTION], [DURATION]) == before


@pytest.mark.gpu
def test_a_gpu_is_taken_where_there_is_one(folder: Path, clip: Path) -> None:
    localizer = load_localizer(folder)
    assert localizer.model.device.type == "cuda"
    assert len(timetok.localize(clip, QUESTION, model=localizer).spans) == 1


# -------------------------------------------------------------------------------------------------- what is shown


def test_every_prompt_says_when_frames_are_shown(folder: Path) -> None:
    text = shown(load_localizer(folder))
    assert (
        f"lasts 75.5 seconds; its 6 frames are shown at 0.0, 1.0, 7.5, 30.3, 30.3, 71.9 seconds. {QUESTION}\n" in text
    )


def test_qwen3_vl_writes_the_middle_of_two_frames(folder_of: Any) -> None:
    found = re.findall(r"<([0-9.]+) seconds>", shown(load_localizer(folder_of("qwen3_vl"))))
    assert found == [f"{(a + b) / 2:.1f}" for a, b in zip(TIMES[::2], TIMES[1::2], strict=True)]


def test_smolvlm_writes_the_second_of_each_frame(folder_of: Any) -> None:
    text = shown(load_localizer(folder_of("smolvlm")))
    assert re.findall("Frame from ([0-9:]+):", text) == ["00:00", "00:01", "00:07", "00:30", "00:30", "01:11"]
    assert "from a 0:01:15 [H:MM:SS] video" in text


def test_qwen2_5_vl_counts_time_at_the_distance_of_frames(folder_of: Any, clip: Path) -> None:
    localizer = load_localizer(folder_of("qwen2_5_vl"), num_frames=6)
    inputs = localizer.prepare(localizer.read(clip), QUESTION, 2.0)
    assert inputs["second_per_grid_ts"].tolist() == pytest.approx([2 * 1.9 / 5])  # the last frame stands at 1.9 s


def test_frames_are_read_from_first_to_last(folder_of: Any, clip: Path) -> None:
    localizer = load_localizer(folder_of("llava_onevision"), num_frames=3)
    assert localizer.read(clip).times_seconds.tolist() == pytest.approx([0.0, 1.0, 1.9])
    given = frames()
    assert localizer.read(given) is given


def test_a_prompt_that_starts_a_sequence_starts_it_once(folder_of: Any) -> None:
    localizer = load_localizer(folder_of("qwen3_vl"))
    tokenizer = localizer.processor.tokenizer
    tokenizer.bos_token = "<|im_start|>"
    start = tokenizer.bos_token_id
    first = [(tokenizer.bos_token, start)]
    adding = TemplateProcessing(single=f"{tokenizer.bos_token} $A", special_tokens=first)
    tokenizer.backend_tokenizer.post_processor = adding
    assert tokenizer("a")["input_ids"][0] == start
    ids = localizer.prepare(frames(), QUESTION, DURATION)["input_ids"][0].tolist()
    assert ids[0] == start != ids[1]


# ------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    "question", ["Is <t12> in it, or <12.3>?", "{{ 7 * 7 }}{% endfor %}", "when 1.0 - 2.0 seconds"]
)
def test_what_a_user_types_stays_characters(question: str, folder: Path) -> None:
    assert question in shown(load_localizer(folder), question)


def test_control_tokens_are_refused_before_the_video_is_opened(folder: Path) -> None:
    localizer = load_localizer(folder)
    tokens = {localizer.processor.video_token, localizer.processor.image_token, localizer.processor.tokenizer.eos_token}
    for question in ["", " ", "\udcff", *(f"Is it{token}?" for token in tokens)]:
        with pytest.raises(PromptError, match=r"^question: "):
            timetok.localize("missing.mp4", question, model=localizer)
    with pytest.raises(VideoNotFoundError):
        timetok.localize("missing.mp4", QUESTION, model=localizer)


def test_too_many_frames_for_the_context_are_refused(folder_of: Any, clip: Path) -> None:
    localizer = load_localizer(folder_of("smolvlm"))
    localizer.model.config.text_config.max_position_embeddings = 300
    with pytest.raises(PromptError, match=r"fit the model .* show fewer frames"):
        timetok.localize(clip, QUESTION, model=localizer)


def test_too_many_frames_for_the_gpu_are_refused(folder_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    localizer = load_localizer(folder_of("smolvlm"))
    monkeypatch.setattr(localizer.model, "generate", full)
    with pytest.raises(PromptError, match=r"fill the GPU.s memory; show fewer frames"):
        localizer.ask([frames()], [QUESTION], [DURATION])


# --------------------------------------------------------------------------------------------------------- folders


def no_weights(path: Path) -> str:
    (path / "model.safetensors").unlink()
    return "safetensors"


def no_chat_template(path: Path) -> str:
    (path / "chat_template.jinja").unlink()
    return "chat template"


def template_without_videos(path: Path) -> str:
    (path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}")
    return "chat template shows videos, got Qwen3VLProcessor"


def no_processor(path: Path) -> str:
    (path / "processor_config.json").unlink()
    return "broken"


def other_model(path: Path) -> str:
    (path / "config.json").write_text('{"model_type": "llama"}')
    return "broken"


def corrupt_config(path: Path) -> str:
    (path / "config.json").write_text("[1]")
    return "broken"


DAMAGES = [no_weights, no_chat_template, template_without_videos, no_processor, other_model, corrupt_config]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_folder_is_refused(damage: Callable[[Path], str], folder_of: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder_of("qwen3_vl"), broken)
    told = damage(broken)
    with pytest.raises(ModelFolderError, match=r"^model: .*broken.* cannot be loaded: ") as caught:
        load_localizer(broken)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_refused(folder_of: Any) -> None:
    for path in (folder_of("qwen3_vl"), None):
        with pytest.raises(ModelFolderError, match=r"^model: .* cannot be loaded: .*device"):
            load_localizer(path, device="gpu")


@pytest.mark.parametrize("name", ["Qwen/Qwen3-VL-0.1B-Nothing", "nothing", "a/b/c"])
def test_a_name_that_was_not_downloaded_says_how(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelFolderError, match=rf"^model: expected .*hf download NAME.*, got '{name}'$"):
        timetok.localize("clip.mp4", QUESTION, model=name)


def test_a_name_that_was_downloaded_is_found(
    folder_of: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of the Hub's cache: refs name a commit, and its snapshot has the files."""
    place = tmp_path / "models--org--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c0ffee")
    shutil.copytree(folder_of("qwen3_vl"), place / "snapshots" / "c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    answer = timetok.localize(clip, QUESTION, model="org/tiny")
    assert answer == timetok.localize(clip, QUESTION, model=folder_of("qwen3_vl"))


def test_an_empty_name_is_not_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        load_localizer("")


def test_the_choice_falls_by_the_config(folder_of: Any) -> None:
    assert isinstance(load_localizer(), Localizer)
    assert isinstance(load_localizer(folder_of("smolvlm")), HubLocalizer)
    with pytest.raises(ArgumentError, match=r"^num_frames: a LITA has its own"):
        load_localizer(num_frames=8)


# ------------------------------------------------------------------------------------------------ the command line


def test_localize_prints_json_and_draws(
    folder: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "timeline.png"
    options = ["--model", str(folder), "--frames", "6", "--device", "cpu"]
    assert main(["localize", str(clip), QUESTION, *options, "--json", "--plot", str(picture)]) == 0
    out, err = capfd.readouterr()
    assert err == "" and out.count("\n") == 1 and picture.is_file()
    answer = json.loads(out)
    expected = timetok.localize(clip, QUESTION, model=load_localizer(folder, device="cpu", num_frames=6))
    assert answer == {"video": str(clip), "question": QUESTION} | json.loads(json.dumps(asdict(expected)))


def test_localize_tells_a_span_and_a_mistake(folder_of: Any, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = str(folder_of("llava_onevision"))
    assert main(["localize", str(clip), QUESTION, "--model", model]) == 0
    assert re.search(r"^span:     [0-9.]+ s to [0-9.]+ s of 2.00 s$", capfd.readouterr().out, re.MULTILINE)
    assert main(["localize", str(clip), "<video>", "--model", model]) == 1
    assert capfd.readouterr().err.startswith("timetok: question: holds <video>")


@pytest.fixture
def data(clip: Path, tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    entries = []
    for k, vid in enumerate("abab"):
        shutil.copy(clip, tmp_path / "videos" / f"{vid}.mp4")
        asked = {"question": f"{QUESTION} {k}", "answer": "<0.00> <1.00>", "duration": 2.0}
        entries.append({"vid": vid, "question_id": k, **asked})
    (tmp_path / "rtl.json").write_text(json.dumps(entries))
    return tmp_path / "rtl.json"


def test_evaluate_scores_it(folder: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--frames", "4", "--batch-size", "2"]
    assert main(["evaluate", str(folder), str(data), *options]) == 0
    assert "lita-rtl" in capfd.readouterr().out
    assert main(["evaluate", str(folder), str(data), *options, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["values"]
    assert found["parsed"] == 1.0 and 0 <= found["mIoU"] <= 1
    assert main(["evaluate", str(folder), str(data), *options, "--decoding", "free", "--json"]) == 0
    free = json.loads(capfd.readouterr().out)["values"]
    assert free["parsed"] < 1.0  # random weights say anything


def test_each_video_is_read_once_where_it_fits(folder_of: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    localizer = load_localizer(folder_of("qwen2_5_vl"), num_frames=4)
    read: list[str] = []
    monkeypatch.setattr(localizer, "read", lambda path: read.append(path.stem) or HubLocalizer.read(localizer, path))
    by_two = evaluate_model(localizer, read_questions(data), batch_size=2)
    assert read == ["a", "b"]
    assert evaluate_model(localizer, read_questions(data), batch_size=3) == by_two
