"""Visual tokens in place of placeholders, by a hook on the language model's embedding.

Shapes: b batch, d language width, n visual tokens, s sequence.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from timetok.errors import SpliceError


@contextmanager
def splice(lm: PreTrainedModel, rows: Sequence[Tensor], video_token_id: int) -> Iterator[None]:
    """While the context lasts, placeholder ids in the LM's input become visual tokens.

    The placeholder needs no row in the embedding: it is swapped for a safe id before the look-up.
    Rows repeated by beam search or ``num_return_sequences`` are repeated here too, and decoding steps,
    which hold no placeholder, pass through. SpliceError is raised where placeholders and visual tokens differ in
    number, or these were never used, because the embedding was not called or saw no placeholder.

    Args:
        lm: The language model; the hook sits on what ``get_input_embeddings()`` returns now, because
            peft may have replaced that module since the last call.
        rows: Visual tokens of each prompt, ``[n d]``, in the order of the batch.
        video_token_id: Id of the placeholder.
    """
    masks: list[Tensor] = []
    filled = not any(len(row) for row in rows)

    def hide(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids = args[0] if args else kwargs["input"]
        masks.append(ids == video_token_id)
        safe = ids.masked_fill(masks[-1], 0)
        return ((safe, *args[1:]), kwargs) if args else (args, {**kwargs, "input": safe})

    def fill(_: nn.Module, __: tuple[Any, ...], embeds: Tensor) -> Tensor:
        nonlocal filled
        mask = masks.pop()
        if not bool(mask.any()):
            return embeds
        filled = True
        return embeds.masked_scatter(mask.unsqueeze(-1), _visual_for(mask, rows).to(embeds))

    embedding = lm.get_input_embeddings()
    with embedding.register_forward_pre_hook(hide, with_kwargs=True), embedding.register_forward_hook(fill):
        yield
    if not filled:
        raise SpliceError(
            f"the video did not reach {type(lm).__name__}: its input embedding was not called with the placeholders; "
            "call the model with input_ids, and without a cache that already holds them"
        )


def _visual_for(mask: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Visual tokens for a placeholder mask ``[k·b s]``, each prompt's repeated k times: ``[count d]``."""
    repeats, rest = divmod(mask.shape[0], len(rows))
    counts = mask.sum(1).tolist()
    expected = [len(row) for row in rows for _ in range(repeats)]
    if rest or counts != expected:
        raise SpliceError(f"input_ids: placeholders by row are {counts}, visual tokens by row are {expected}")
    return torch.cat([row for row in rows for _ in range(repeats)])
