"""Frames that see themselves whole, by FlexAttention: the mask is a rule and never a matrix.

Forward and generation run on a CPU, which compiles them first (half a minute, and a C++ compiler is needed). The
backward of FlexAttention raises there: train on a GPU, or with ``attn_implementation="sdpa"`` and the adapter's own
``VideoAdapter(..., temporal_rope=(1, 1), attention="frame-block-causal")``.

Run: python examples/flex_attention.py
"""

import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import pad
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from timetok.attention import frame_mask, temporal_position_ids

# A stand-in for your LM, and for the embeddings of a prompt: text, eight frames of 16 tokens, a question.
torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
lm = LlamaForCausalLM(LlamaConfig(vocab_size=100, pad_token_id=0, initializer_range=0.2, **sizes)).eval()
frame_index = torch.tensor([[-1] * 4 + [frame for frame in range(8) for _ in range(16)] + [-1] * 6])
length, num_new = frame_index.shape[1], 4
embeds = torch.randn(1, length, 64)

# What is generated is text; a static cache, because another length would be compiled anew.
frame_index = pad(frame_index, (0, num_new), value=-1)
positions = temporal_position_ids(frame_index, a=1, b=1)
lm.set_attn_implementation("flex_attention")
cache = StaticCache(config=lm.config, max_cache_len=length + num_new)


def sees(batch, head, query, key):
    """What `frame_mask` gives for "frame-block-causal", as FlexAttention asks for it; a batch has its padding, too."""
    of_query, of_key = frame_index[batch, query], frame_index[batch, key]
    return (query >= key) | ((of_query == of_key) & (of_key >= 0))


def block_mask(start, stop):
    """The mask of the tokens from start to stop, against all that the cache has room for."""
    shifted = start + torch.zeros((), dtype=torch.long)
    rows = (lambda b, h, query, key: sees(b, h, query + shifted, key)) if start else sees
    return create_block_mask(rows, 1, None, stop - start, length + num_new, device="cpu")


with torch.no_grad():
    prompt = {"inputs_embeds": embeds, "position_ids": positions[:, :length]}
    logits = lm(**prompt, attention_mask=block_mask(0, length), past_key_values=cache).logits
    answer = [logits[:, -1:].argmax(-1)]
    for k in range(length, length + num_new - 1):
        step = {"input_ids": answer[-1], "position_ids": positions[:, k : k + 1]}
        output = lm(**step, attention_mask=block_mask(k, k + 1), past_key_values=cache)
        answer.append(output.logits.argmax(-1))

    lm.set_attn_implementation("sdpa")  # the same mask as a matrix
    mask = frame_mask(frame_index[:, :length], kind="frame-block-causal")
    dense = lm(**prompt, attention_mask=mask).logits

ids = torch.cat(answer, dim=1)
print(f"logits of the prompt differ from those of SDPA by {(logits - dense).abs().max().item():.1e} at most")
print("answer:", ids[0].tolist())
