"""Tiny language models and tokenizers, built from configurations: real classes, random weights, no downloads."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config

from timetok import SlowFastPooler, TimeTokenizer, VideoAdapter, embeddings

KINDS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "mistral": MistralConfig}
MODELS = [(kind, tied) for kind in KINDS for tied in (True, False)]
WIDTH, VISION_WIDTH, T = 32, 6, 10
NUM_VISUAL = 5  # of `video()` under `POOLER`: three fast tokens and two slow ones
PROMPT = "USER: <video>\nWhen does the red circle appear? ASSISTANT:"


def tokenizer():
    """A byte-level BPE without a token for the start of a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["USER: When does the red circle appear? ASSISTANT: it is visible"] * 8, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


def time_tokenizer():
    return TimeTokenizer.wrap(tokenizer(), T=T)


def language_model(kind="llama", *, tied=True, rows=290, seed=0):
    torch.manual_seed(seed)
    config = KINDS[kind](
        vocab_size=rows,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.3,  # answers differ from prompt to prompt
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=1,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def adapter(kind="llama", *, tied=True, vision_dim=VISION_WIDTH, seed=0, pooler=None, **options):
    """An adapter whose LM has rows for the time tokens and none for the placeholder."""
    tt, lm = time_tokenizer(), language_model(kind, tied=tied, seed=seed)
    embeddings.resize(lm, tt.time_token_ids)
    pooler = pooler or SlowFastPooler(num_slow_frames=2)
    return VideoAdapter(lm, tt, vision_dim=vision_dim, pooler=pooler, **options).eval()


def video(seed=0, *, frames=3, side=2, width=VISION_WIDTH):
    """Patch features of one video, ``[t p e]``."""
    return torch.randn(frames, side * side, width, generator=torch.Generator().manual_seed(seed))


def greedy(logits_of, ids, num, *, eos=1):
    """Greedy decoding without a cache: the whole sequence again for every token, up to the end token."""
    for _ in range(num):
        best = logits_of(ids)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
        if best.item() == eos:
            break
    return ids
