"""The tokenizer of the shapes recipe, trained on the wordings of its tasks: it comes with the bundled model.

Run: python examples/shapes_tokenizer.py    # writes a folder for AutoTokenizer, and says whether it is the bundled one
"""

import argparse
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from shapes_world.recipe import shapes_tokenizer
from shapes_world.tasks import SEEN_PAIRS, TASKS, shown
from timetok.recipes.records import Record
from timetok.timegrid import Span


def corpus(num_texts: int, seed: int) -> list[str]:
    """Questions and answers, one text each, over all tasks; times stay in seconds."""
    rng = np.random.default_rng([seed, 0x7EC5])
    texts: list[str] = []
    while len(texts) < num_texts:
        duration, task = rng.uniform(5.0, 180.0), list(TASKS.values())[rng.integers(len(TASKS))]
        pairs = [SEEN_PAIRS[int(k)] for k in rng.choice(len(SEEN_PAIRS), size=rng.integers(2, 6), replace=False)]
        starts = rng.uniform(0.0, 0.6, size=len(pairs)) * duration
        ends = starts + rng.uniform(0.08, 0.4, size=len(pairs)) * duration
        events = [shown(*pair, Span(a, b)) for pair, a, b in zip(pairs, starts, ends, strict=True)]
        for turn in task(Record("", "", None, duration, tuple(events), ""), rng):
            texts += [turn.question, turn.answer]
    return texts[:num_texts]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path(gettempdir()) / "shapes_tokenizer")
parser.add_argument("--size", type=int, default=640, help="of the vocabulary")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

backend = Tokenizer(models.BPE())
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
special = {"special_tokens": ["<pad>", "</s>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
trainer = trainers.BpeTrainer(vocab_size=options.size, show_progress=False, **special)
backend.train_from_iterator((f"USER: {text} ASSISTANT:" for text in corpus(4000, options.seed)), trainer)
PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>").save_pretrained(options.out)
is_bundled = backend.get_vocab() == shapes_tokenizer().get_vocab()
print(f"{options.out}: {backend.get_vocab_size()} tokens, {'the bundled one' if is_bundled else 'not the bundled one'}")
