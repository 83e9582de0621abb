"""Behind an OpenAI-compatible server: prompt embeddings in, spans and times between the marks out. Downloads nothing.

vLLM, run with `--enable-prompt-embeds`, takes `prompt_embeds` in its Completions API and holds the answer to a regular
expression. Here the LM alone, in this process, stands for the server; its answer is written as the server's JSON.

Run: python examples/serving.py
"""

import base64
import io
import json
import math

import torch

from timetok.lita.answer import Localizer, load_sample

localizer = Localizer.load()
adapter, tt = localizer.model.model, localizer.processor.tt
video, question, truth = load_sample()
frames = localizer.processor.read(video)
encoded, duration = [localizer.encode(frames)], frames.duration_seconds
batch = localizer.processor.prompts([localizer.processor.prompt(question)], videos=encoded)

# To the server: the prompt with the video in it, in the encoding that vLLM's completions take.
(embeds,) = adapter.prompt_embeds(**batch)
torch.save(embeds, buffer := io.BytesIO())
request = {
    "prompt_embeds": base64.b64encode(buffer.getvalue()).decode(),
    "structured_outputs": {"regex": tt.regex()},
    "logprobs": 20,
    "skip_special_tokens": False,
}
print(f"request: {len(json.dumps(request)) / 1e3:.0f} kB for {len(embeds)} embeddings")

# The server: the language model alone. It writes what the regular expression admits.
received = torch.load(io.BytesIO(base64.b64decode(request["prompt_embeds"])), weights_only=True)
first, last = tt.time_token_ids[0], tt.time_token_ids[-1]
space = torch.tensor([tt.tokenizer.encode(" ", add_special_tokens=False)])
tops, embeddings, embed = [], received[None], adapter.lm.get_input_embeddings()
with torch.no_grad():
    for _ in range(2):
        embeddings = torch.cat([embeddings, embed(space)], 1)  # the space before each time token
        scores = adapter.lm(inputs_embeds=embeddings).logits[0, -1, first : last + 1].log_softmax(-1)
        values, indices = scores.topk(request["logprobs"])
        tops.append({tt.codec.tokens[k]: value for k, value in zip(indices.tolist(), values.tolist(), strict=True)})
        embeddings = torch.cat([embeddings, embed(first + indices[None, :1])], 1)
written = [max(top, key=top.get) for top in tops]
response = {"choices": [{"text": " ".join(written), "logprobs": {"tokens": written, "top_logprobs": tops}}]}

# From the server: spans, and times between the marks, as `SpanPosterior.refined` takes them.
(choice,) = json.loads(json.dumps(response))["choices"]
ids = tt.tokenizer(choice["text"], add_special_tokens=False)["input_ids"]
print("spans:", tt.spans(ids, duration, malformed="sort"))
index, moments = {name: k for k, name in enumerate(tt.codec.tokens)}, []
for token, top in zip(choice["logprobs"]["tokens"], choice["logprobs"]["top_logprobs"], strict=True):
    if token in index:
        shares = {index[name]: math.exp(value) for name, value in top.items() if name in index}
        near = {k: share for k, share in shares.items() if abs(k - index[token]) <= 2}
        moments.append(sum(share * tt.grid.decode(k, duration) for k, share in near.items()) / sum(near.values()))
print("between the marks:", " to ".join(f"{moment:.2f} s" for moment in sorted(moments)))
print(f"true: {truth.start:.2f} s to {truth.end:.2f} s")
