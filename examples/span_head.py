"""Spans as distributions: a head on the hidden state of one token, trained here on states that tell when.

python examples/span_head.py

Shapes: m spans, d language width. R + 1 marks stand evenly over a video, the first at 0 seconds, the last at its end.
"""

import torch
from torch import Tensor, nn

from timetok.errors import TimeRangeError, check_count


class SpanHead(nn.Module):
    """Hidden states of one token → distributions over marks for start and end, whose means are a span in seconds.

    Source: DisTime (arXiv 2505.24329) and its code: R = 32; distribution focal loss, which is cross entropy with the
    two marks about a time, weighted by nearness; added to it a 1-D IoU loss with a term for the distance of middles.
    There the first is summed over times and divided by R, here it is their mean; there times are clamped to
    ``[0, d - 1]``, here those outside ``[0, d]`` are refused.
    """

    places: Tensor

    def __init__(self, width: int, *, num_steps: int = 32) -> None:
        super().__init__()
        check_count("num_steps", num_steps)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * (num_steps + 1)))
        self.register_buffer("places", torch.linspace(0, 1, num_steps + 1), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[m d] → logits [m 2 R+1]."""
        return self.layers(hidden).unflatten(-1, (2, -1))

    def seconds(self, logits: Tensor, durations: Tensor) -> Tensor:
        """Logits and durations [m] → start and end, [m 2]; nothing makes the one come before the other."""
        return logits.float().softmax(-1) @ self.places.float() * durations.unsqueeze(-1)

    def loss(self, logits: Tensor, spans: Tensor, durations: Tensor) -> Tensor:
        """The loss of spans [m 2] in seconds, a scalar; TimeRangeError unless all lie in their videos."""
        if not ((spans >= 0) & (spans <= durations.unsqueeze(-1)) & (spans[:, :1] <= spans[:, 1:])).all():
            raise TimeRangeError(f"spans: expected 0 <= start <= end <= duration, got {spans.tolist()}")
        marks = spans / durations.unsqueeze(-1) * (logits.shape[-1] - 1)
        low = marks.floor().clamp(max=logits.shape[-1] - 2)
        pair, shares = torch.stack([low, low + 1], -1).long(), torch.stack([low + 1 - marks, marks - low], -1)
        focal = -(logits.float().log_softmax(-1).gather(-1, pair) * shares).sum(-1)
        (start, end), (begin, stop) = self.seconds(logits, durations).unbind(-1), spans.unbind(-1)
        both = (torch.minimum(end, stop) - torch.maximum(start, begin)).clamp(min=0)
        union = (end - start + stop - begin - both).clamp(min=1e-6)
        hull = (torch.maximum(end, stop) - torch.minimum(start, begin)).clamp(min=1e-6)
        apart = (start + end - begin - stop) / 2 / hull
        return focal.mean() + (1 - both / union + apart**2).mean()


def main() -> None:
    torch.manual_seed(0)
    durations = 10 + 50 * torch.rand(256)
    spans = torch.rand(256, 2).sort(dim=1).values * durations.unsqueeze(1)
    hidden = (spans / durations.unsqueeze(1)) @ torch.randn(2, 32) + 0.01 * torch.randn(256, 32)
    head = SpanHead(32)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for step in range(201):
        logits = head(hidden)
        loss = head.loss(logits, spans, durations)
        if step % 50 == 0:
            off = (head.seconds(logits, durations) - spans).abs().mean()
            print(f"step {step:3}: loss {loss:.3f}, {off:.2f} s off")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
