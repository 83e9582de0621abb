"""SlowFast pooling on a GPU: the kernels against the formula, its compilation, and the memory's measured bandwidth.

    python benchmarks/pooling_gpu.py              # checks, then times; writes a CSV and the docs' table
    python benchmarks/pooling_gpu.py --rehearse   # no GPU: small shapes in Triton's interpreter, writes nothing

Targets, at 8 x 100 x 256 x 1024 in bfloat16 on an H200: forward at 93 % of the bandwidth of a kernel that only reads,
backward at 92 % of that of ``fill_`` and 4.5 times the formula's, neither slower than the compiled formula; the launch
at b = 1, in a CUDA graph, under twice that of an empty kernel.
"""

import argparse
import os
from collections.abc import Callable
from statistics import median, quantiles

import torch
from harness import ROOT, add_rows, markdown, provenance, read_rows, seconds, write_between
from torch import Tensor

from pooling import DTYPES, backward, check, formula

MAIN = (8, 100, 16, 16, 1024)
SHAPES = (MAIN, (1, 100, 16, 16, 1024), (1, 8, 16, 16, 1024), (1, 7200, 16, 16, 1024), (8, 100, 27, 27, 1152))
SMALL = ((2, 5, 4, 4, 8), (1, 3, 5, 5, 8))
ROUNDS = 50


def times(call: Callable[[], object], on_gpu: bool) -> list[float]:
    """Seconds of ``ROUNDS`` calls; on a GPU by events, with its cache emptied before each."""
    if not on_gpu:
        return [seconds(call) for _ in range(3)]
    from triton.testing import do_bench

    return [1e-3 * found for found in do_bench(call, warmup=100, rep=400, return_mode="all")]


def read_only() -> Callable[[Tensor], Tensor]:
    """A kernel that reads every byte once and writes one number a program."""
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(numbers, sums, count, block: tl.constexpr):
        place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        found = tl.load(numbers + place, place < count, 0.0, eviction_policy="evict_first")
        tl.store(sums + tl.program_id(0), tl.sum(found.to(tl.float32), 0))

    def read(video: Tensor) -> Tensor:
        block = 8192
        programs = triton.cdiv(video.numel(), block)
        sums = video.new_empty(programs, dtype=torch.float32)
        kernel[(programs,)](video, sums, video.numel(), block=block, enable_fp_fusion=False)
        return sums

    return read


def in_graph(call: Callable[[], object]) -> Callable[[], object]:
    """A call as a CUDA graph of 100 of it, without what Python costs."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(100):
            call()
    return graph.replay


def launches() -> dict[str, object]:
    """What a launch costs at b = 1, against an empty kernel; both a hundred times in a CUDA graph."""
    import triton

    from timetok import SlowFastPooler

    @triton.jit
    def empty(pointer):
        pass

    video, ours = torch.randn(1, 8, 2, 2, 64, device="cuda", dtype=torch.bfloat16), SlowFastPooler(backend="triton")
    pooled = times(in_graph(lambda: ours(video)), True)
    nothing = times(in_graph(lambda: empty[(1,)](video, enable_fp_fusion=False)), True)
    return row((1, 8, 2, 2, 64), "bf16", "launch", "empty kernel", pooled, nothing, 0)


def row(
    shape: tuple[int, ...], dtype: str, which: str, baseline: str, mine: list[float], theirs: list[float], moved: int
) -> dict[str, object]:
    """One line of the CSV: medians, and the spread of ours."""
    fifths = quantiles(mine, n=5)
    return {
        "shape": "x".join(map(str, shape)),
        "dtype": dtype,
        "pass": which,
        "baseline": baseline,
        "microseconds": f"{1e6 * median(mine):.1f}",
        "p20": f"{1e6 * fifths[0]:.1f}",
        "p80": f"{1e6 * fifths[3]:.1f}",
        "baseline_microseconds": f"{1e6 * median(theirs):.1f}",
        "times_faster": f"{median(theirs) / median(mine):.3f}",
        "gigabytes_per_second": f"{1e-9 * moved / median(mine):.0f}",
        **provenance(),
    }


def cases(shape: tuple[int, ...], dtype: str, device: str) -> list[dict[str, object]]:
    """Rows of one shape and dtype; a baseline that only reads or writes moves what the pass must move."""
    from timetok import SlowFastPooler

    torch.manual_seed(0)
    video, ours = torch.randn(shape, device=device, dtype=DTYPES[dtype]), SlowFastPooler(backend="triton")
    check(video[:, : min(shape[1], 20)], ours)
    torch._dynamo.reset()
    compiled, read = torch.compile(formula, backend="inductor" if device == "cuda" else "eager"), read_only()
    moved = video.numel() * video.element_size()
    forward = {
        "formula": lambda: formula(video),
        "compiled formula": lambda: compiled(video),
        "reading once": lambda: read(video),
    }
    found, on_gpu = [], device == "cuda"
    with torch.no_grad():
        mine = times(lambda: ours(video), on_gpu)
        found += [("forward", name, mine, times(call, on_gpu)) for name, call in forward.items()]
    calls = {"formula": backward(formula, video), "compiled formula": backward(compiled, video)}
    filled = torch.empty_like(video)
    calls["writing once"] = lambda: filled.fill_(0.5)
    mine = times(backward(ours, video), on_gpu)
    found += [("backward", name, mine, times(call, on_gpu)) for name, call in calls.items()]
    return [row(shape, dtype, *each, moved) for each in found]


def table() -> str:
    """The CSV as Markdown."""
    header = ["b t h w e", "dtype", "pass", "against", "ours, µs", "theirs, µs", "times faster", "GB/s"]
    columns = ["shape", "dtype", "pass", "baseline", "microseconds", "baseline_microseconds", "times_faster"]
    rows = read_rows("pooling-gpu")
    return markdown(header, [[found[column] for column in (*columns, "gigabytes_per_second")] for found in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, to see that it runs")
    options = parser.parse_args()
    if options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        raise SystemExit("pooling_gpu.py: torch sees no CUDA device; --rehearse runs without one")
    key = ["shape", "dtype", "pass", "baseline"]
    for shape in SMALL if options.rehearse else SHAPES:
        for dtype in DTYPES:
            rows = cases(shape, dtype, "cpu" if options.rehearse else "cuda")
            for found in rows:
                print(*list(found.values())[:10])
            if not options.rehearse:
                add_rows("pooling-gpu", rows, key=key)
    if not options.rehearse:
        add_rows("pooling-gpu", [launches()], key=key)
        write_between(ROOT / "docs" / "pooling.md", "gpu table", table())


if __name__ == "__main__":
    main()
