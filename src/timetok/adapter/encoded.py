"""One video, many questions: pooler, projector and the shared beginning of the prompts run once.

Shapes: b batch, d language width, n visual tokens, s sequence.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from timetok.errors import ArgumentError

_STEPWISE = {"jamba", "prophetnet", "recurrent_gemma", "reformer", "zamba"}  # go on from a cache by single tokens


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """A video as a language model reads it, to be passed wherever features are; made by ``encode_video``.

    Attributes:
        tokens: ``[n d]``.
        prefix_ids: Ids that were run through the model, with the video in them; none where it cannot go on from them.
        cache: What the model remembers of them.
    """

    tokens: Tensor
    prefix_ids: Tensor
    cache: Any = None


@torch.no_grad()
def remember(model: Any, tokens: Tensor, prefix_ids: Sequence[int]) -> EncodedVideo:
    """Run the beginning of a prompt, which holds one video of ``tokens`` ``[n d]``, through a ``VideoLM``."""
    ids = torch.tensor([list(prefix_ids)], dtype=torch.long, device=tokens.device)
    if not ids.numel():
        return EncodedVideo(tokens, ids[0])
    once: dict[str, Any] = {"max_new_tokens": 1, "num_beams": 1, "num_return_sequences": 1, "do_sample": False}
    output = model.generate(ids, video_features=[tokens], return_dict_in_generate=True, **once)
    cache: Any = getattr(output, "past_key_values", None)
    attends = any(hasattr(layer, "keys") for layer in getattr(cache, "layers", ()))
    if not attends or model.lm.config.model_type in _STEPWISE or cache.get_seq_length() != ids.shape[1]:
        return EncodedVideo(tokens, ids[0, :0])
    return EncodedVideo(tokens, ids[0], cache)


@torch.no_grad()
def generate_about(model: Any, video: EncodedVideo, input_ids: Tensor, mask: Tensor, options: Any) -> Tensor:
    """Prompts ``[b s]`` about one video, continued by a ``VideoLM``: prompt and new ids, filled up on the right.

    Rows that begin as the encoded prefix go on from a copy of its cache, those of one length together.
    """
    if options.get("return_dict_in_generate"):
        raise ArgumentError("return_dict_in_generate: not with an encoded video, whose prompts make several batches")
    config = options.get("generation_config") or model.lm.generation_config
    copies = max(options.get(name) or getattr(config, name) or 1 for name in ("num_beams", "num_return_sequences"))
    # a penalty looks at the ids of the prefix, which are not there to be looked at when its cache is
    penalised = (options.get("repetition_penalty") or config.repetition_penalty or 1.0) != 1.0
    known = 0 if penalised else len(video.prefix_ids)
    rows = [ids[keep.bool()] for ids, keep in zip(input_ids, mask, strict=True)]
    groups: dict[tuple[bool, int], list[int]] = defaultdict(list)
    for k, row in enumerate(rows):
        begins = 0 < known < len(row) and torch.equal(row[:known], video.prefix_ids)
        groups[begins and not (row[known:] == model.video_token_id).any(), len(row)].append(k)
    answers: dict[int, Tensor] = {}
    for (begins, length), members in groups.items():
        ids = torch.stack([rows[k] for k in members])
        more: dict[str, Any] = {"video_features": [video.tokens] * len(members)}
        if begins:
            cache = copy.deepcopy(video.cache)
            cache.reorder_cache(ids.new_zeros(len(members) * copies))
            ids, more = ids.masked_fill(ids == model.video_token_id, 0), {"past_key_values": cache}
        found = model.generate(ids, **more, **options)[:, length:]
        answers |= dict(zip(members, found.unflatten(0, (len(members), -1)), strict=True))
    new = [answer for k in range(len(rows)) for answer in answers[k]]
    pad = options.get("pad_token_id", config.pad_token_id) or 0
    repeated = input_ids.repeat_interleave(len(new) // len(rows), 0)
    return torch.cat([repeated, pad_sequence(new, batch_first=True, padding_value=pad)], 1)
