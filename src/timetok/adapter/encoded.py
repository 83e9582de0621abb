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
    together = all(begins) and (min(lengths) == width or _skips_holes(model.lm, video.cache))
    if not any(begins) or (options.get("return_dict_in_generate") and not together):  # which is of one batch
        afresh = [EncodedVideo(video.tokens, video.prefix_ids[:0])] * count
        return model.generate(input_ids, attention_mask=mask, video_features=afresh, **options)
    if not together:
        new: list[Tensor] = []
        for row, length in zip(input_ids, lengths, strict=True):
            new += model.generate(row[None, width - length :], video_features=[video], **options)[:, length:]
        pad = options.get("pad_token_id", config.pad_token_id) or 0
        repeated = input_ids.repeat_interleave(len(new) // count, 0)
        return torch.cat([repeated, pad_sequence(new, batch_first=True, padding_value=pad)], 1)
    cache = copy.deepcopy(video.cache)
    cache.reorder_cache(input_ids.new_zeros(count * copies))
    hole = (width - mask.sum(1, keepdim=True)) + known
    place = torch.arange(width, device=mask.device)
    seen = ((place < known) | (place >= hole)).to(mask)
    ids = input_ids.masked_fill(place < hole, 0)  # in the cache, or unseen
    output = model.generate(ids, attention_mask=seen, past_key_values=cache, **options)
    found = output if isinstance(output, Tensor) else output.sequences
    found[:, :width] = input_ids.repeat_interleave(len(found) // count, 0)
    return output


def _skips_holes(lm: Any, cache: Any) -> bool:
    """Whether masked padding amid a row changes nothing: positions come from the mask, and no window slides over it."""
    plain = all(type(layer) is DynamicLayer for layer in cache.layers)
    return plain and "position_ids" in signature(lm.forward).parameters and lm.config.model_type not in _COUNTS_SLOTS
