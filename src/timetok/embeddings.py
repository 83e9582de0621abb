"""New tokens inside a model: rows for their ids, and values to start from. Knows ids, no tokenizer."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from timetok.errors import ArgumentError


def resize(model: PreTrainedModel, ids: Sequence[int], *, pad_to_multiple_of: int | None = None) -> nn.Module:
    """Grow the input and output embedding until every id has a row; never shrink them.

    Vocabularies are often padded, and ``resize_token_embeddings(len(tokenizer))`` would cut the padding off.
    New rows start as transformers starts them; tied embeddings stay tied.

    Args:
        model: Any model of transformers with an input embedding.
        ids: Ids that must have a row; nothing happens if they all have one.
        pad_to_multiple_of: If the embedding grows, it grows to a multiple of this.

    Returns:
        The model's input embedding.

    Raises:
        ArgumentError: An id is negative.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=10, **shape))
        >>> resize(model, range(10, 14)).num_embeddings
        14
    """
    if any(index < 0 for index in ids):
        raise ArgumentError(f"ids must not be negative, got {min(ids)}")
    embedding: nn.Module = model.get_input_embeddings()
    if len(ids) and max(ids) >= len(embedding.get_parameter("weight")):
        embedding = model.resize_token_embeddings(max(ids) + 1, pad_to_multiple_of=pad_to_multiple_of)
    return embedding


@torch.no_grad()
def init_rows(model: PreTrainedModel, ids: Sequence[int], how: Literal["interpolate"] = "interpolate") -> None:
    """Start the rows of ordered tokens so that neighbours are nearer to each other than strangers.

    Both embeddings get rows on the arc between two random anchors, all of the typical length of the other rows.

    Args:
        model: A model whose embeddings have a row for every id; see `resize`.
        ids: Ids in the order of time. Draws from torch's global random generator.
        how: Only ``"interpolate"``.

    Raises:
        ArgumentError: ``how`` is something else.
    """
    if how != "interpolate":
        raise ArgumentError(f"how must be 'interpolate', got {how!r}")
    modules: list[nn.Module | None] = [model.get_input_embeddings(), model.get_output_embeddings()]
    tables = [module.get_parameter("weight") for module in modules if module is not None]
    for table in tables[:1] if tables[0] is tables[-1] else tables:  # tied: once
        table[list(ids)] = _arc(table, len(ids)).to(table)


def _arc(table: Tensor, count: int) -> Tensor:
    """``count`` rows from one random direction to another at a right angle, of the table's median norm."""
    first, second = torch.linalg.qr(torch.randn(table.shape[1], 2)).Q.T
    angle = torch.linspace(0, torch.pi / 2, count)[:, None]
    length: Tensor = table.float().norm(dim=1).median().cpu()
    arc: Tensor = angle.cos() * first + angle.sin() * second
    return length * arc
