"""Visual tokens in place of placeholders, by a hook on the language model's embedding.

Shapes: b batch, d language width, n visual tokens, s sequence.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from inspect import signature
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from timetok.errors import SpliceError

_SEQUENCE_FIRST = {"xlnet"}  # model types that turn their ids round, to [s b], before they embed them
_IDS = "input_ids"  # how the names of parameters end that take ids, throughout transformers


@contextmanager
def splice(lm: PreTrainedModel, rows: Sequence[Tensor], video_token_id: int) -> Iterator[None]:
    """While the context lasts, placeholder ids in the LM's input become ``rows``, ``[n d]`` visual tokens a prompt.

    The placeholder needs no row in the embedding: it is swapped for id 0 before the look-up, there and in whatever
    else inside the LM is handed ids (per-layer embeddings, hashes of ids, routing by id). The hook sits on what
    ``get_input_embeddings()`` returns now, because peft may have replaced that module since the last call.
    Rows repeated by beam search or ``num_return_sequences`` are repeated here too, and decoding steps,
    which hold no placeholder, pass through. SpliceError is raised where placeholders and visual tokens differ in
    number, or these were never used, because the embedding was not called or saw no placeholder.
    """
    masks: list[Tensor] = []
    filled = not any(len(row) for row in rows)
    turned = lm.config.model_type in _SEQUENCE_FIRST
    embedding = lm.get_input_embeddings()

    def hide(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        def safe(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor) or not (module is embedding or name.endswith(_IDS)):
                return value
            mask = value == video_token_id
            if module is embedding:
                masks.append(mask)
            return value.masked_fill(mask, 0)

        names = _parameters(type(module).forward)[: len(args)]
        by_place = tuple(safe(name, value) for name, value in zip_longest(names, args, fillvalue=""))
        return by_place, {name: safe(name, value) for name, value in kwargs.items()}

    def fill(_: nn.Module, __: tuple[Any, ...], embeds: Tensor) -> Tensor:
        nonlocal filled
        mask = masks.pop()
        if not bool(mask.any()):
            return embeds
        filled = True
        mask, embeds = (mask.T, embeds.transpose(0, 1)) if turned else (mask, embeds)
        # beam search repeats each prompt as often as the next
        repeated = [row for row in rows for _ in range(len(mask) // len(rows))]
        counts, expected = mask.sum(1).tolist(), [len(row) for row in repeated]
        if counts != expected:
            raise SpliceError(f"input_ids: placeholders by row are {counts}, visual tokens by row are {expected}")
        embeds = embeds.masked_scatter(mask.unsqueeze(-1), torch.cat(repeated).to(embeds))
        return embeds.transpose(0, 1) if turned else embeds

    with ExitStack() as hooks:
        hooks.enter_context(embedding.register_forward_hook(fill))
        for module in {embedding, *lm.modules()}:
            takes_ids = any(name.endswith(_IDS) for name in _parameters(type(module).forward))
            # what leads to the embedding hands the placeholders on to it
            if module is embedding or (takes_ids and all(inner is not embedding for inner in module.modules())):
                hooks.enter_context(module.register_forward_pre_hook(hide, with_kwargs=True))
        yield
    if not filled:
        cause = "its input embedding was not called with the placeholders"
        remedy = "call the model with input_ids, and without a cache that already holds them"
        raise SpliceError(f"the video did not reach {type(lm).__name__}: {cause}; {remedy}")


@cache
def _parameters(forward: Callable[..., Any]) -> list[str]:
    """Names of what a forward takes after ``self``."""
    return list(signature(forward).parameters)[1:]
