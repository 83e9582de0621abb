"""One video, many questions: pooler, projector and the shared beginning of the prompts run once.

Shapes: b batch, d language width, n visual tokens, s sequence.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicLayer

_STEPWISE = {"jamba", "prophetnet", "recurrent_gemma", "reformer", "zamba"}  # go on from a cache by single tokens
_COUNTS_SLOTS = {"git", "moss_transcribe_diarize"}  # their positions do not come from the mask


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
    """Run the beginning of a prompt, which holds one video of ``tokens`` ``[n d]``, through a `VideoAdapter`."""
    ids = torch.tensor([list(prefix_ids)], dtype=torch.long, device=tokens.device)
    if not ids.numel():
        return EncodedVideo(tokens, ids[0])
    once: dict[str, Any] = {"max_new_tokens": 1, "num_beams": 1, "num_return_sequences": 1, "do_sample": False}
    encoded = EncodedVideo(tokens, ids[0, :0])
    output = model.generate(ids, video_features=[encoded], return_dict_in_generate=True, **once)
    cache: Any = getattr(output, "past_key_values", None)
    attends = any(hasattr(layer, "keys") for layer in getattr(cache, "layers", ()))
    if not attends or model.lm.config.model_type in _STEPWISE or cache.get_seq_length() != ids.shape[1]:
        return encoded
    return EncodedVideo(tokens, ids[0], cache)


@torch.no_grad()
def generate_about(model: Any, video: EncodedVideo, input_ids: Tensor, mask: Tensor, options: Any) -> Any:
    """Prompts ``[b s]`` about one video, continued by a `VideoAdapter`: prompt and new ids, filled up on the right.

    Rows that begin as the encoded prefix go on from a copy of its cache: all together, the padding moved behind the
    prefix; one by one where some begin otherwise, or the model does not leave a hole out of account exactly.
    """
    config = options.get("generation_config") or model.lm.generation_config
    copies = max(options.get(name) or getattr(config, name) or 1 for name in ("num_beams", "num_return_sequences"))
    known, (count, width) = len(video.prefix_ids), input_ids.shape
    begins, lengths = [], mask.sum(1).tolist()
    for row, length in zip(input_ids, lengths, strict=True):
        start, rest = row[width - length :].tensor_split([known])
        same = known < length and torch.equal(start, video.prefix_ids)
        begins.append(same and not (rest == model.video_token_id).any())
    together = all(begins) and (len({*lengths}) == 1 or _skips_holes(model.lm, video.cache))
    afresh = [EncodedVideo(video.tokens, video.prefix_ids[:0])]
    if not any(begins) or (options.get("return_dict_in_generate") and not together):  # which is of one batch
        return model.generate(input_ids, attention_mask=mask, video_features=afresh * count, **options)
    new: list[Tensor] = []
    for rows in [slice(0, count)] if together else [slice(k, k + 1) for k in range(count)]:
        longest = max(lengths[rows])
        ids, seen = input_ids[rows, width - longest :], mask[rows, width - longest :]
        more: dict[str, Any] = {"video_features": afresh}
        if begins[rows.start]:
            cache = copy.deepcopy(video.cache)
            cache.reorder_cache(ids.new_zeros(len(ids) * copies))
            hole = (longest - seen.sum(1, keepdim=True)) + known
            place = torch.arange(longest, device=ids.device)
            seen = ((place < known) | (place >= hole)).to(mask)
            ids, more = ids.masked_fill(place < hole, 0), {"past_key_values": cache}  # 0: in the cache, or unseen
        output = model.generate(ids, attention_mask=seen, **more, **options)
        found = output if isinstance(output, Tensor) else output.sequences
        new += found[:, longest:]
    pad = options.get("pad_token_id", config.pad_token_id) or 0
    repeated = input_ids.repeat_interleave(len(new) // len(input_ids), 0)
    whole = torch.cat([repeated, pad_sequence(new, batch_first=True, padding_value=pad)], 1)
    if isinstance(output, Tensor):
        return whole
    output.sequences = whole
    return output


def _skips_holes(lm: Any, cache: Any) -> bool:
    """Whether masked padding amid a row changes nothing: positions come from the mask, and no window slides over it."""
    plain = all(type(layer) is DynamicLayer for layer in cache.layers)
    return plain and "position_ids" in signature(lm.forward).parameters and lm.config.model_type not in _COUNTS_SLOTS
