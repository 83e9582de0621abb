"""What time tokens cost: encoding moments, tokenising prompts, reading spans from ids, well-formed decoding.

    python benchmarks/tokens.py                # checks, then times; writes results/tokens.csv

Each case is first compared with its baseline's result, then timed in alternation with it; the ratio is the median of
the paired ratios.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from harness import add_rows, paired, provenance
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast

from timetok import TimeGrid, TimeTokenizer
from timetok.decoding import SpanConstraint


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few sentences."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    text = ["USER: when does the man open the red door of the house? ASSISTANT: it happens in the second scene"] * 50
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def row(
    case: str,
    target: str,
    ours: Callable[[], object],
    baseline: Callable[[], object],
    units: int,
    baseline_seconds: Callable[[], float] | None = None,
) -> dict[str, object]:
    """Time a case against its baseline."""
    times = paired(ours, baseline, baseline_seconds=baseline_seconds)
    return {
        "case": case,
        "target": target,
        **{name: f"{times[name]:.3f}" for name in ("ratio", "ratio_p20", "ratio_p80")},
        "million_per_second": f"{units / times['seconds'] / 1e6:.2f}",
        **provenance(),
    }


def encode() -> dict[str, object]:
    grid, times, duration = TimeGrid(100), np.random.default_rng(0).uniform(0, 60, 5_000_000), 60.0

    def bare() -> np.ndarray:
        return np.clip(np.round(99 * (times / duration)), 0, 99).astype(np.int64)

    assert np.array_equal(grid.encode(times, duration), bare())
    return row(
        "encode 5 M timestamps / the bare formula", "<= 1.5", lambda: grid.encode(times, duration), bare, 5_000_000
    )


def tokenise() -> dict[str, object]:
    bare = tokenizer()
    tt = TimeTokenizer.wrap(bare)
    prompts = [f"USER: when does the man open door {k}? ASSISTANT: <t{k % 100}> <t99>" for k in range(10_000)]
    assert tt(prompts)["input_ids"] == bare(prompts)["input_ids"]
    return row(
        "tokenise 10 000 prompts / the same tokenizer bare",
        "<= 1.05",
        lambda: tt(prompts),
        lambda: bare(prompts),
        10_000,
    )


def spans() -> dict[str, object]:
    tt = TimeTokenizer.wrap(tokenizer())
    first, rng = tt.time_token_ids[0], np.random.default_rng(0)
    ids = rng.integers(0, first, (1000, 512))
    for answer in ids:
        marks = np.sort(rng.integers(0, 100, 40))
        answer[np.sort(rng.choice(512, 40, replace=False))] = first + marks

    def loop() -> list:
        found = []
        for answer in ids.tolist():
            marks = [60.0 * (token - first) / 99 for token in answer if first <= token < first + 100]
            found.append(list(zip(marks[::2], marks[1::2], strict=True)))
        return found

    ours = [[tuple(span) for span in answer] for answer in tt.spans(ids, 60.0)]
    np.testing.assert_allclose(ours, loop(), rtol=1e-12)
    return row("spans of 1 000 x 512 ids / a Python loop", ">= 2 M ids/s", lambda: tt.spans(ids, 60.0), loop, ids.size)


def constrained(codec: str, free_text: bool) -> dict[str, object]:
    """The logits processor's part of an answer of 12 tokens, for a video it has not seen, against a 100 M model's."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(files("mistral_common") / "data" / "tokenizer.model.v1", Path(folder) / "tokenizer.model")
        tt = TimeTokenizer.wrap(LlamaTokenizer.from_pretrained(folder), codec=codec)
    shape = {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 12, "num_attention_heads": 10}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tt.tokenizer), **shape)).eval()
    constraint, scores = SpanConstraint(tt, free_text=free_text), torch.randn(12, 1, len(tt.tokenizer))
    durations = iter(np.random.default_rng(0).uniform(30, 300, 1000).tolist())

    def answer() -> list[int]:
        processor, ids = constraint.processor(duration := next(durations)), torch.zeros(1, 0, dtype=torch.long)
        for step in scores:
            ids = torch.cat([ids, processor(ids, step).argmax(-1, keepdim=True)], 1)
        found = ids[0].tolist()
        stop = found.index(tt.tokenizer.eos_token_id) if tt.tokenizer.eos_token_id in found else None
        assert free_text or stop is None or len(tt.spans(found[:stop], duration, malformed="raise")) == 1
        return found

    @torch.inference_mode()
    def decode() -> None:
        cache = model(torch.randint(0, 30_000, (1, 400)), use_cache=True).past_key_values
        start = time.perf_counter()
        for _ in range(12):
            model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
        spent.append(time.perf_counter() - start)

    spent: list[float] = []
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    where = "free text" if free_text else "one span"
    name = f"well-formed {codec}, {where} / decoding of a {millions:.0f} M model"
    return row(name, "<= 0.03", answer, decode, 12, baseline_seconds=lambda: spent[-1])


def main() -> None:
    forms = [(codec, free_text) for codec in ("index", "seconds", "clock") for free_text in (False, True)]
    rows = [encode(), tokenise(), spans(), *(constrained(*form) for form in forms)]
    add_rows("tokens", rows, key=["case"])
    for found in rows:
        print(
            f"{found['case']:72s} {found['ratio']:>7s}  {found['million_per_second']:>8s} M/s  target {found['target']}"
        )


if __name__ == "__main__":
    main()
