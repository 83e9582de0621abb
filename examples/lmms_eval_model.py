"""Any model of timetok under lmms-eval: the bundled one, a LITA folder, a video language model of the Hub.

lmms-eval's temporal tasks read seconds as text, so that is what they get: the first span of an answer in the words that
Charades-STA, TimeLens and ExtremeWhenBench ask for, and where there is no span the answer itself, which holds seconds
where the model wrote time tokens. One process; greedy, whatever a task says about sampling. ``--model_args`` are
``pretrained``, a folder or a downloaded name (without it, the bundled model, which knows only shapes), and for a model
of the Hub ``num_frames``.

lmms-eval 0.7.3 asks for an older PyAV than timetok, which it does not need here, and for much else:

    pip install --no-deps lmms-eval
    pip install accelerate aiohttp datasets evaluate loguru pytablewriter pytz sacrebleu tenacity

Run: python examples/lmms_eval_model.py --model_args pretrained=DIR --tasks temporal_grounding_charades --batch_size 8

For ``python -m lmms_eval --model timetok`` to do the same, a package that holds this file names it in its pyproject:

    [project.entry-points."lmms_eval.models"]
    timetok = "lmms_eval_model:MANIFEST"
"""

import sys
from collections import defaultdict

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from timetok.errors import VideoError
from timetok.hub import load_localizer, localize_all
from timetok.lita.answer import Answer


def seconds_text(answer: Answer) -> str:
    """One sentence with one range, which every parser reads alike: some take the first in a text, some the last."""
    for span in answer.spans[:1]:
        return f"The event happens in {span.start:.2f} - {span.end:.2f} seconds."
    return answer.text


class TimetokModel(lmms):
    """What `load_localizer` takes as ``pretrained``, and its ``device`` and ``num_frames``."""

    def __init__(self, pretrained=None, device=None, num_frames=None, batch_size=1, max_batch_size=None):
        super().__init__()
        self.localizer = load_localizer(pretrained, device=device, num_frames=num_frames)
        self.batch_size = int(batch_size)

    def generate_until(self, requests):
        asked = defaultdict(list)  # a video is read and encoded once for all questions about it
        for number, request in enumerate(requests):
            question, options, doc_to_visual, doc_id, task, split = request.args
            visuals = doc_to_visual(self.task_dict[task][split][doc_id])
            if len(visuals) != 1 or not isinstance(visuals[0], str):
                raise VideoError(f"{task}, document {doc_id}: expected the path of one video, got {visuals!r}")
            asked[visuals[0], options.get("max_new_tokens", 96)].append((number, question))
        texts = [""] * len(requests)
        for (video, most), group in tqdm(asked.items(), "videos", disable=self.rank != 0):
            numbers, questions = zip(*group, strict=True)
            bounds = {"max_new_tokens": most, "batch_size": self.batch_size}
            for number, answer in zip(numbers, localize_all(video, questions, self.localizer, **bounds), strict=True):
                texts[number] = seconds_text(answer)
        return texts

    def loglikelihood(self, requests):
        raise NotImplementedError("timetok answers by generation: expected tasks of output_type generate_until")

    generate_until_multi_round = loglikelihood


MANIFEST = ModelManifest("timetok", simple_class_path=f"{__name__}.TimetokModel")

if __name__ == "__main__":
    from lmms_eval.cli.dispatch import main
    from lmms_eval.models import MODEL_REGISTRY_V2  # not above: it reads entry points before it has this name

    MODEL_REGISTRY_V2.register_manifest(MANIFEST)
    sys.argv[1:1] = ["--model", "timetok"]
    main()
