"""New tokens inside a model: rows for their ids, how they start, train and merge. Knows ids, no tokenizer."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from timetok.atomic import replacing
from timetok.errors import ArgumentError

Start: TypeAlias = Literal["interpolate", "sinusoidal", "mean", "numbers"]
ROWS = ("time_rows.input", "time_rows.output")


def resize(model: PreTrainedModel, ids: Sequence[int], *, pad_to_multiple_of: int | None = None) -> nn.Module:
    """Grow the input and output embedding until every id has a row; never shrink them. Returns the input embedding.

    Vocabularies are often padded, and ``resize_token_embeddings(len(tokenizer))`` would cut the padding off. New rows
    start as transformers starts them; ties stay. What grows, grows to a multiple of ``pad_to_multiple_of``.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1))
    >>> resize(model, range(10, 14)).num_embeddings
    14
    """
    embedding: nn.Module = model.get_input_embeddings()
    if len(ids) and max(ids) >= len(embedding.get_parameter("weight")):
        embedding = model.resize_token_embeddings(max(ids) + 1, pad_to_multiple_of=pad_to_multiple_of)
    return embedding


@torch.no_grad()
def init_rows(
    model: PreTrainedModel, ids: Sequence[int], how: Start = "interpolate", *, number_ids: Sequence[Sequence[int]] = ()
) -> None:
    """Start the rows of ordered tokens, in both embeddings, so that neighbours are nearer than strangers.

    ``"interpolate"`` puts them on an arc between two directions from torch's global random generator, ``"sinusoidal"``
    on a position encoding, both as long as the other rows are; ``"mean"`` near the mean of the other rows, a tenth of
    their length along such an arc; ``"numbers"`` at the mean of the rows that spell their number: for it alone,
    ``number_ids`` has, for each id, those of ``tokenizer(str(index))``. ``ids`` stand in the order of time; where the
    embeddings lack a row for one, ArgumentError is raised: see `resize`.
    """
    if how not in get_args(Start):
        raise ArgumentError(f"how must be one of {get_args(Start)}, got {how!r}")
    spelled = len(ids) if how == "numbers" else 0
    if len(number_ids) != spelled or not all(map(len, number_ids)):
        raise ArgumentError(f"number_ids must hold at least one id for each of {spelled} ids for how={how!r}")
    for table in tables(model):
        if ids and not 0 <= min(ids) <= max(ids) < len(table):
            raise ArgumentError(f"ids must have rows, 0 to {len(table) - 1}, got {min(ids)} to {max(ids)}; call resize")
        known, num, width = table.float().cpu(), len(ids), table.shape[1]
        length = known.norm(dim=1).median()
        if how == "numbers":
            rows = torch.stack([known[list(spelling)].mean(0) for spelling in number_ids])
        elif how == "sinusoidal":
            place, half = torch.arange(num)[:, None], torch.arange((width + 1) // 2)
            angle = place / 10_000 ** (half / len(half))
            rows = length * normalize(torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width])
        else:  # unit rows from one random direction to another at a right angle
            first, second = torch.linalg.qr(torch.randn(width, 2)).Q.T
            angle = torch.linspace(0, torch.pi / 2, num)[:, None]
            rows = length * (angle.cos() * first + angle.sin() * second)
        if how == "mean":
            rows = known[torch.isin(torch.arange(len(known)), torch.tensor(ids), invert=True)].mean(0) + 0.1 * rows
        table[list(ids)] = rows.to(table)


def peft_kwargs(model: PreTrainedModel, ids: Sequence[int]) -> dict[str, Any]:
    """Arguments of a peft config for ``model`` under which exactly the rows of ``ids`` train, in both embeddings.

    ``{"trainable_token_indices": {module name: ids}}``: one module where the embeddings are tied, else two. LoRA alone
    trains no new row, and naming the ids alone leaves an untied head out. ArgumentError: a head has a bias.
    """
    chosen = _embeddings(model)
    if getattr(chosen[-1], "bias", None) is not None:
        raise ArgumentError("model: its head has a bias, which peft's trained rows would drop")
    names = [name.rpartition(".")[2] for name, module in model.named_modules() if module in chosen]
    return {"trainable_token_indices": {name: list(ids) for name in names}}


def merge_and_export(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write a ``PeftModel`` as a plain checkpoint, which transformers and vLLM load without peft.

    The model is merged, and must not be trained on. The folder appears only when it is complete. Where peft wraps a
    `VideoAdapter`, that is what is written, with its language model in ``folder/lm``.
    """
    merged = model.merge_and_unload()
    whole = {} if isinstance(merged, PreTrainedModel) else {"adapter_only": False}
    with replacing(folder) as partial:
        merged.save_pretrained(partial, **whole)


def tables(model: PreTrainedModel) -> list[Tensor]:
    """Matrices ``[v d]`` of both embeddings, peft's rows in place; one where tied, which peft makes two equal."""
    return [module.weight for module in _embeddings(model)]


def rows_of(model: PreTrainedModel, ids: Sequence[int]) -> dict[str, Tensor]:
    """The rows of ids, ``[ids d]``, in both embeddings, by the names in `ROWS`; none without ids."""
    return {name: table.detach()[list(ids)] for name, table in zip(ROWS, tables(model) if ids else (), strict=False)}


@torch.no_grad()
def load_rows(model: PreTrainedModel, ids: Sequence[int], saved: Mapping[str, Tensor]) -> None:
    """Overwrite rows with those that `rows_of` gave; ArgumentError where they do not fit."""
    for name, table in zip(ROWS, tables(model) if ids else (), strict=False):
        if not isinstance(table, nn.Parameter):
            raise ArgumentError("lm: its embedding is wrapped by peft; load the adapter first, then wrap the LM")
        if name not in saved:
            raise ArgumentError(f"lm: its head is not tied, and the folder has no {name}; pass one that is tied")
        table[list(ids)] = saved[name].to(table)


def _embeddings(model: PreTrainedModel) -> list[Any]:
    first, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [first] if head is None or head.weight is first.weight else [first, head]
