"""Times on visual tokens themselves: each carries the embedding of the time token nearest to when it is shown.

python examples/time_markers.py                                 # what a sampler keeps of a video, marked

`VideoAdapter(time_markers=True)` marks its fast tokens by the rank of their frames. This marks any tokens by seconds.
Shapes: e vision width, d language width, n visual tokens.
"""

import torch
from torch import Tensor

from timetok import TimeGrid, VideoAdapter
from timetok.adapter import EncodedVideo
from timetok.lita.answer import Localizer
from token_reducers import WeightedTokenSampler


def markers(
    adapter: VideoAdapter, times_seconds: Tensor, duration_seconds: float, *, with_head: bool = False
) -> Tensor:
    """Rows [n d] of the embedding for the time tokens nearest to times [n], or their means with the head's rows.

    Source: language-aligned positional embedding, LLaVA-ST (arXiv 2501.08282), whose code adds the mean of both rows,
    in the order of frames, to all patches of a frame after its projector; of its time axis alone.
    """
    grid = adapter.processor.tt.grid if adapter.processor else TimeGrid(len(adapter.time_token_ids))
    table, head = adapter.lm.get_input_embeddings(), adapter.lm.get_output_embeddings()
    index = grid.encode(times_seconds, duration_seconds).cpu()
    ids = torch.tensor(adapter.time_token_ids)[index].to(table.weight.device)
    return (table(ids) + head.weight[ids]) / 2 if with_head else table(ids)


def marked(adapter: VideoAdapter, tokens: Tensor, times_seconds: Tensor, duration_seconds: float) -> EncodedVideo:
    """Pooled or reduced tokens [n e], projected and marked: stands for a video's features in prompts and batches."""
    projected = adapter.visual_tokens(tokens.unsqueeze(0))[0]
    rows = markers(adapter, times_seconds, duration_seconds)
    return EncodedVideo(projected + rows, torch.empty(0, dtype=torch.long, device=rows.device))


if __name__ == "__main__":
    tiny = Localizer.load()  # the language model and the tokenizer of the bundled one, which saw no such features
    adapter = VideoAdapter(tiny.model.model.lm, tiny.tt, vision_dim=32)
    features, times = torch.randn(1, 12, 16, 32), [0.5 * frame for frame in range(12)]
    ((tokens, shown),) = WeightedTokenSampler(4)(features, times)
    video = marked(adapter, tokens, shown, 6.0)
    batch = adapter.prepare(["USER: <video>\nWhen? ASSISTANT:"], videos=[video])
    ids = adapter.generate(**batch, max_new_tokens=4, do_sample=False)
    print(f"{len(video.tokens)} marked tokens; untrained: {tiny.tt.decode(ids[0, batch['input_ids'].shape[1] :], 6.0)}")
