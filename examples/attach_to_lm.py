"""SlowFast pooling and time tokens on a causal LM: a forward, a backward, an answer. Downloads nothing.

Run: python examples/attach_to_lm.py
"""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import timetok

# Stand-ins for your tokenizer, your LM and your frozen vision encoder's features.
words = ["<unk>", "<eos>", "USER", "ASSISTANT", ":", "When", "does", "it", "start", "?"]
backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
backend.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
torch.manual_seed(0)
lm = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
)
features = torch.randn(100, 256, 32)  # [t p e]: 100 frames of 16 x 16 patches

tt = timetok.TimeTokenizer.wrap(tokenizer, T=100)
timetok.embeddings.resize(lm, tt.time_token_ids)  # grows, never shrinks
adapter = timetok.VideoAdapter(lm, tt, vision_dim=32)

row = {"prompt": "USER: <video> When does it start? ASSISTANT:", "answer": " <12.30>", "video_features": features}
batch = adapter.processor.collator()([{**row, "duration_seconds": 60.0}])
loss = adapter(**batch).loss
loss.backward()
print(f"loss {loss.item():.2f} on {int((batch['labels'] != -100).sum())} tokens of {batch['input_ids'].shape[1]}")
print(f"gradient of the projector {adapter.projector.weight.grad.norm().item():.3f}")

prompt = adapter.prepare([row["prompt"]], videos=[features])
ids = adapter.generate(**prompt, max_new_tokens=4, do_sample=False)
print("an untrained answer:", tt.decode(ids[0, prompt["input_ids"].shape[1] :], 60.0))
