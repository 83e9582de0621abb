"""Our models under lmms-eval, by `examples/lmms_eval_model.py`, where it is installed: real runs on three clips."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest

import tiny_video_lms
from shapes_world.scenes import write_dataset
from timetok.atomic import read_json, write_json
from timetok.errors import VideoError
from timetok.hub import load_localizer, localize
from timetok.lita.answer import Answer, load_sample
from timetok.timegrid import Span, iou

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed")
EXAMPLES = Path(__file__).parent.parent / "examples"

TASK = """
task: when_shapes
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{correct_interval}}}}"
generation_kwargs: {{max_new_tokens: 24, temperature: 0, do_sample: false}}
process_results: !function utils.process_results
metric_list:
  - {{metric: charades, aggregation: mean, higher_is_better: true}}
  - {{metric: timelens, aggregation: mean, higher_is_better: true}}
  - {{metric: extremewhenbench, aggregation: mean, higher_is_better: true}}
"""
UTILS = '''
"""One IoU of each of three benchmarks, as its own code reads the answer."""

from lmms_eval.tasks.charades_sta import utils as charades
from lmms_eval.tasks.extremewhenbench import utils as extreme
from lmms_eval.tasks.timelens import utils as timelens


def doc_to_visual(doc):
    return [doc["video"]]


def process_results(doc, results):
    spans = {"charades": charades.extract_time(results[0]), "timelens": timelens.extract_time(results[0])}
    ious = {name: charades.iou(span, doc["correct_interval"]) for name, (span,) in spans.items()}
    return ious | {"extremewhenbench": extreme.ewb_process_results(doc, results)["ewb_mIoU"]["iou"]}
'''


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder with a task of lmms-eval, and its documents: the bundled clip and two new ones."""
    folder = tmp_path_factory.mktemp("task")
    video, question, truth = load_sample()
    asked = [(video, question, truth)]
    write_dataset(folder, num_clips=2, split="test", seed=9)
    for entry in read_json(folder / "event_loc.json", list, "questions"):
        told = re.fullmatch(r"<(.+)> <(.+)>", entry["answer"])
        asked.append((folder / "videos" / f"{entry['vid']}.mp4", entry["question"], Span(*map(float, told.groups()))))
    fixed = {"video_id": "v", "source_corpus": "shapes"}
    documents = [
        {"qid": k, "video": str(video), "question": question, "correct_interval": list(truth), **fixed}
        for k, (video, question, truth) in enumerate(asked)
    ]
    write_json(folder / "test.json", documents)
    (folder / "when_shapes.yaml").write_text(TASK.format(data=folder / "test.json"))
    (folder / "utils.py").write_text(UTILS)
    return folder, documents


def run(command, task, tmp_path, *more_paths):
    """What a command of lmms-eval reports: the value of each metric, and each answer."""
    options = f"--tasks when_shapes --include_path {task[0]} --output_path {tmp_path} --log_samples".split()
    paths = os.pathsep.join(map(str, [*more_paths, *filter(None, sys.path)]))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *command, *options], capture_output=True, text=True, check=False, env=os.environ | offline
    )
    assert "Traceback" not in done.stderr, done.stderr  # its exit status is 0 then, too
    (results,) = tmp_path.rglob("*_results.json")
    (samples,) = tmp_path.rglob("*_samples_when_shapes.jsonl")
    said = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    values = json.loads(results.read_text())["results"]["when_shapes"]
    return {name.partition(",")[0]: value for name, value in values.items()}, said


def check(scores, said, task, model):
    """All three parsers read what `localize` gives; return its mean IoU."""
    expected, ious = [], []
    for document in task[1]:
        (span,) = localize(document["video"], document["question"], model, max_new_tokens=24).spans
        expected.append(f"The event happens in {span.start:.2f} - {span.end:.2f} seconds.")
        ious.append(iou(Span(round(span.start, 2), round(span.end, 2)), Span(*document["correct_interval"])))
    assert said == expected
    names = ("charades", "timelens", "extremewhenbench")
    assert [scores[name] for name in names] == pytest.approx([fmean(ious)] * 3, abs=1e-9)
    return fmean(ious)


@pytest.mark.slow
def test_the_bundled_model_by_the_example_itself(task, tmp_path):
    scores, said = run([EXAMPLES / "lmms_eval_model.py"], task, tmp_path)
    assert check(scores, said, task, None) > 0.5  # it does see the shapes


@pytest.mark.slow
def test_a_video_lm_by_the_command_of_lmms_eval(task, tmp_path):
    folder = tiny_video_lms.save(tmp_path / "model", "qwen3_vl")
    known = tmp_path / "site" / "named-1.dist-info"  # as an installed package would name it
    known.mkdir(parents=True)
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: named\nVersion: 1\n")
    (known / "entry_points.txt").write_text("[lmms_eval.models]\ntimetok = lmms_eval_model:MANIFEST\n")
    command = ["-m", "lmms_eval", "--model", "timetok", "--model_args", f"pretrained={folder},num_frames=4"]
    scores, said = run(command, task, tmp_path, known.parent, EXAMPLES)
    check(scores, said, task, load_localizer(folder, num_frames=4))


@pytest.mark.filterwarnings("ignore")  # of what lmms-eval imports
def test_answers_come_in_the_order_of_the_questions_whatever_their_videos(task):
    from lmms_eval_model import TimetokModel, seconds_text

    first, second, _ = task[1]
    asked = [first, second, first | {"question": "When is the blue cross visible? Give only the times."}, second]
    model = TimetokModel(batch_size="2")
    model.task_dict = {"task": {"test": asked}}
    options = [{"max_new_tokens": 24}, {}, {}, {"max_new_tokens": 1}]
    arguments = [
        (document["question"], options[k], lambda document: [document["video"]], k, "task", "test")
        for k, document in enumerate(asked)
    ]
    answers = [
        localize(document["video"], document["question"], model.localizer, **bound)
        for document, bound in zip(asked, options, strict=True)
    ]
    assert not answers[3].spans and len({answer.text for answer in answers}) == 4
    requests = [SimpleNamespace(args=each) for each in arguments]
    assert model.generate_until(requests) == list(map(seconds_text, answers))


@pytest.mark.filterwarnings("ignore")
def test_an_answer_without_a_span_stays_as_it_is_and_of_several_spans_the_first_counts():
    from lmms_eval_model import seconds_text

    assert seconds_text(Answer("at 3.20 seconds", (), (), (3.2,), 9.0)) == "at 3.20 seconds"
    two = Answer("", (Span(1.0, 2.5), Span(3.0, 4.0)), (), (), 9.0)
    assert seconds_text(two) == "The event happens in 1.00 - 2.50 seconds."


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("visuals", [[], [object()], ["a.mp4", "b.mp4"]])
def test_a_document_has_one_video_as_a_path(visuals):
    from lmms_eval_model import TimetokModel

    model = TimetokModel()
    model.task_dict = {"task": {"test": [{}]}}
    with pytest.raises(VideoError, match="task, document 0: expected the path of one video, got"):
        model.generate_until([SimpleNamespace(args=("When?", {}, lambda _: visuals, 0, "task", "test"))])
    with pytest.raises(NotImplementedError, match="output_type generate_until"):
        model.loglikelihood([])
