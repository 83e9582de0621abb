"""SlowFast pooling on a CPU, forward and backward, against the published formula and against reading memory once.

    python benchmarks/pooling.py               # checks, then times; writes results/pooling.csv and the docs' table

Every case is checked against the formula first. Targets are for two cores at 2 x 100 x 256 x 1024.
"""

import argparse
from collections.abc import Callable

import torch
from einops import rearrange, reduce
from harness import ROOT, add_rows, markdown, paired, provenance, read_rows, write_between
from torch import Tensor
from torch._functorch import config as functorch_config
from torch.nn.functional import avg_pool2d

from timetok import SlowFastPooler

functorch_config.donated_buffer = False  # a compiled backward may be called again
MAIN = (2, 100, 16, 16, 1024)
SHAPES = (MAIN, (1, 8, 16, 16, 1024), (1, 100, 27, 27, 1152), (8, 8, 16, 16, 1024), (1, 8, 4, 4, 64))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def formula(video: Tensor) -> Tensor:
    """LITA's pooling as published, in einops."""
    b, t = video.shape[:2]
    fast = reduce(video, "b t h w e -> b t e", "mean")
    frames = video[:, torch.linspace(0, t - 1, 4).round().long()]
    slow = avg_pool2d(rearrange(frames, "b s h w e -> (b s) e h w"), 2)
    return torch.cat([fast, rearrange(slow, "(b s) e h w -> b (s h w) e", b=b)], 1)


def backward(pool: Callable[[Tensor], Tensor], video: Tensor) -> Callable[[], Tensor]:
    """A call that computes the gradient of the input, into fresh memory."""
    leaf = video.detach().requires_grad_()
    tokens = pool(leaf)
    gradient = torch.randn_like(tokens)
    return lambda: torch.autograd.grad(tokens, leaf, gradient, retain_graph=True)[0]


def check(video: Tensor, ours: SlowFastPooler) -> None:
    """The correctness gate: at most twice the error of the formula, against float64, forward and gradient."""
    exact = formula(video.double())
    errors = [float((call(video).double() - exact).abs().max()) for call in (ours, formula)]
    assert errors[0] <= 2 * errors[1] + 1e-7, f"forward: {errors}"
    torch.manual_seed(0)
    mine = backward(ours, video)()
    torch.manual_seed(0)
    theirs = backward(formula, video)()
    torch.testing.assert_close(mine, theirs, rtol=2e-2 if video.dtype == torch.bfloat16 else 1e-5, atol=1e-4)


def cases(shape: tuple[int, ...], dtype: str, allocator: str) -> list[dict[str, object]]:
    """Rows of one shape and dtype."""
    torch.manual_seed(0)
    video, ours = torch.randn(shape, dtype=DTYPES[dtype]), SlowFastPooler()
    check(video[:, : min(shape[1], 20)], ours)
    torch._dynamo.reset()  # or one function meets too many shapes
    compiled = torch.compile(formula)
    baselines = {"formula": formula, "compiled formula": compiled}
    size = video.numel() * video.element_size()
    found = []
    with torch.no_grad():
        for name, baseline in [*baselines.items(), ("reading once", lambda v: v.sum())]:
            calls = lambda: ours(video), lambda baseline=baseline: baseline(video)
            found.append(("forward", name, paired(*calls, rounds=21 if video.numel() > 1e6 else 501)))
    written = {name: backward(baseline, video) for name, baseline in baselines.items()}
    written["writing once"] = lambda: torch.full_like(video, 0.5)
    rounds = 31 if video.numel() > 1e6 else 101
    for name, call in written.items():
        found.append(("backward", name, paired(backward(ours, video), call, rounds=rounds)))
    return [
        {
            "shape": "x".join(map(str, shape)),
            "dtype": dtype,
            "allocator": allocator,
            "pass": which,
            "baseline": name,
            "milliseconds": f"{1e3 * times['seconds']:.3f}",
            "baseline_milliseconds": f"{1e3 * times['baseline_seconds']:.3f}",
            "times_faster": f"{1 / times['ratio']:.2f}",
            "p20": f"{1 / times['ratio_p80']:.2f}",
            "p80": f"{1 / times['ratio_p20']:.2f}",
            "input_megabytes": f"{size / 1e6:.1f}",
            **provenance(),
        }
        for which, name, times in found
    ]


def table() -> str:
    """The CSV as Markdown."""
    header = ["b t h w e", "dtype", "memory", "pass", "against", "ours, ms", "theirs, ms", "times faster"]
    columns = [
        "shape",
        "dtype",
        "allocator",
        "pass",
        "baseline",
        "milliseconds",
        "baseline_milliseconds",
        "times_faster",
    ]
    return markdown(header, [[row[column] for column in columns] for row in read_rows("pooling")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-main", action="store_true", help="one shape")
    parser.add_argument(
        "--allocator", default="default", help="name of the row; set THP_MEM_ALLOC_ENABLE=1 for 'huge pages'"
    )
    options = parser.parse_args()
    for shape in SHAPES[: 1 if options.only_main else None]:
        for dtype in DTYPES:
            rows = cases(shape, dtype, options.allocator)
            add_rows("pooling", rows, key=["shape", "dtype", "allocator", "pass", "baseline"])
            for row in rows:
                print(*list(row.values())[:10])
    write_between(ROOT / "docs" / "pooling.md", "pooling table", table())


if __name__ == "__main__":
    main()
