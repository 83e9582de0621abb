"""Temporal position ids and frame-wise attention masks, for language models that read frames.

Both take ``frame_index`` ``[b s]`` (batch, sequence), the frame of each token: counted from 0 through all videos of a
row, -1 for text; and an attention mask ``[b s]`` that is 0 at padding, or None where there is none.
"""

from math import isfinite
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from timetok.errors import ArgumentError

FrameMask: TypeAlias = Literal["causal", "full-visual", "frame-block", "frame-block-causal"]


def temporal_position_ids(
    frame_index: Tensor, attention_mask: Tensor | None = None, *, a: float = 1.0, b: float = 1.0
) -> Tensor:
    """Positions ``a * n + b * t`` of the dual RoPE ``[b s]``: int64 where a and b are whole numbers, else float32.

    n counts tokens. t counts text tokens and frames: the tokens of a frame share one, wherever they stand, and text
    after a video goes on one after its last frame. Rotations add up, so rotating by n and by t is one RoPE at these
    positions. A token generated next is ``a + b`` further on. Padding has position 0. ArgumentError: a, b infinite.

    Source: TC-LLaVA (arXiv 2409.03206), re-implemented with 1 and 1; which of them its gamma scales is not verified.

    >>> temporal_position_ids(torch.tensor([[-1, 0, 0, 1, 1, -1]])).tolist()  # text, two frames of two tokens, text
    [[0, 2, 3, 5, 6, 8]]
    """
    valid = torch.ones_like(frame_index).bool() if attention_mask is None else attention_mask.bool()
    if not (isfinite(a) and isfinite(b)):
        raise ArgumentError(f"a, b: expected finite numbers, got {a} and {b}")
    frame = frame_index.long().masked_fill(~valid, -1)
    text = (valid & (frame < 0)).long()
    n = valid.cumsum(1) - 1
    t = text.cumsum(1) - text + frame.where(frame >= 0, frame.cummax(1).values + 1)
    whole = float(a).is_integer() and float(b).is_integer()  # integers survive trainers that cast floats to bfloat16
    return (int(a) * n + int(b) * t if whole else (a * n.double() + b * t.double()).float()).masked_fill(~valid, 0)


def frame_mask(frame_index: Tensor, attention_mask: Tensor | None = None, kind: FrameMask = "causal") -> Tensor:
    """Which keys each query, a row, sees: bool ``[b 1 s s]``.

    Everything sees the text before it, and text the visual tokens before it. Of visual tokens, visual tokens see those
    before (``"causal"``), all (``"full-visual"``), those of their own frame (``"frame-block"``), or these and those
    before, as TC-LLaVA proposes (``"frame-block-causal"``). Nothing sees padding but that itself: a row of no key at
    all is NaN in some kernels. ArgumentError: there is no such kind.

    Source: TC-LLaVA (arXiv 2409.03206) Fig. 3. That ``"frame-block"`` hides earlier frames too could not be verified.

    >>> frame_mask(torch.tensor([[-1, 0, 0, 1]]), kind="frame-block-causal").int().tolist()
    [[[[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]]]
    """
    if kind not in get_args(FrameMask):
        raise ArgumentError(f"kind: expected one of {', '.join(get_args(FrameMask))}, got {kind!r}")
    of_query, of_key = frame_index[:, :, None], frame_index[:, None]
    visual, same = (of_query >= 0) & (of_key >= 0), of_query == of_key
    before = torch.ones_like(visual).tril()
    kinds = {"causal": before, "full-visual": visual, "frame-block": same, "frame-block-causal": before | same}
    seen = kinds[kind].where(visual, before)
    if attention_mask is not None:
        seen &= attention_mask.bool()[:, None]
    return (seen | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)).unsqueeze(1)
