"""What the adapter costs over its language model: an answer of 32 tokens about 100 frames, at batch 1 and 8.

    python benchmarks/adapter.py               # checks, then times; writes results/adapter.csv

The baseline is the same language model, a Llama of 100 M parameters, given the finished embeddings. Pooling and
projecting 100 x 256 features of width 1024 to 356 tokens are the adapter's, and so is the hook. Target: under 5 %.
"""

import torch
from harness import add_rows, paired, provenance
from transformers import LlamaConfig, LlamaForCausalLM

from timetok.adapter import TokenIds, VideoAdapter

VOCAB, NEW = 8000, 32


def language_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = LlamaConfig(vocab_size=VOCAB, **shape, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    return LlamaForCausalLM(config).eval()


def case(batch: int) -> dict[str, object]:
    adapter = VideoAdapter(language_model(), TokenIds(VOCAB), vision_dim=1024).eval()
    features = torch.randn(batch, 100, 256, 1024)
    text = torch.randint(1, VOCAB, (batch, 24))
    ids = torch.cat([text[:, :8], torch.full((batch, 356), VOCAB), text[:, 8:]], 1)
    with torch.no_grad():
        words = adapter.lm.get_input_embeddings()(text)
        embeddings = torch.cat([words[:, :8], adapter.visual_tokens(features), words[:, 8:]], 1)
    greedy = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    mask = torch.ones_like(ids)

    def ours() -> torch.Tensor:
        return adapter.generate(ids, attention_mask=mask, video_features=features, **greedy)

    def bare() -> torch.Tensor:
        return adapter.lm.generate(inputs_embeds=embeddings, attention_mask=mask, **greedy)

    assert torch.equal(ours()[:, ids.shape[1] :], bare()), "the adapter and the bare model say different things"
    times = paired(ours, bare, rounds=15 if batch == 1 else 7)
    return {
        "case": f"{NEW} tokens about 356 visual ones / the bare {adapter.lm.num_parameters() / 1e6:.0f} M model",
        "batch": batch,
        "seconds": f"{times['seconds']:.3f}",
        "baseline_seconds": f"{times['baseline_seconds']:.3f}",
        "ratio": f"{times['ratio']:.4f}",
        "ratio_p20": f"{times['ratio_p20']:.4f}",
        "ratio_p80": f"{times['ratio_p80']:.4f}",
        "target": "1.05",
        **provenance(),
    }


def main() -> None:
    for batch in (1, 8):
        row = case(batch)
        add_rows("adapter", [row], key=["case", "batch"])
        print(*list(row.values())[:8])


if __name__ == "__main__":
    main()
