"""The Triton kernels against the formula: on a GPU where there is one, else in an interpreter; and PyTorch's way."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings, strategies as st
from torch.nn.functional import avg_pool2d

from timetok import SlowFastPooler
from timetok.pooling import Path, PoolingPlan, pool

pytest.importorskip("triton")
from timetok.pooling import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FAST = Path(name="fast")


@dataclass
class Case:
    """A layout, and features of some shape and strides."""

    grid: torch.Tensor
    num_slow: int = 4
    window: tuple[int, int] = (2, 2)

    @property
    def plan(self):
        slow = Path(name="slow", frames="even", num=max(self.num_slow, 1), window=(1, *self.window))
        return PoolingPlan((FAST, slow) if self.num_slow else (FAST,))

    def formula(self, grid):
        """As published, in plain PyTorch."""
        b, t = grid.shape[:2]
        fast = grid.mean((2, 3))
        if not self.num_slow:
            return fast
        shown = torch.linspace(0, t - 1, self.num_slow, dtype=torch.float64).round()
        slow = avg_pool2d(rearrange(grid[:, shown.long()], "b s h w e -> (b s) e h w"), self.window)
        return torch.cat([fast, rearrange(slow, "(b s) e h w -> b (s h w) e", b=b)], 1)


def features(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(DEVICE, dtype)


def strided(grid, how):
    """The same numbers behind other strides."""
    if how == "behind a CLS token":
        b, t, h, w, e = grid.shape
        whole = torch.cat([grid.new_full((b, t, 1, e), torch.nan), grid.flatten(2, 3)], 2)
        return whole[:, :, 1:].unflatten(2, (h, w))
    if how == "channels first":
        return grid.permute(4, 0, 1, 2, 3).contiguous().permute(1, 2, 3, 4, 0)
    return grid if how == "contiguous" else torch.cat([grid, grid], 4)[..., : grid.shape[4]]


def gradient_of(pooled, grid, gradient):
    leaf = grid.detach().requires_grad_()
    return torch.autograd.grad(pooled(leaf), leaf, gradient)[0]


def errs_like(found, plain, exact, summands):
    """At most twice the error of plain PyTorch; a few units in the last place, where that may be right by luck."""
    assert found.dtype == plain.dtype and found.shape == exact.shape
    largest = exact.abs().max()  # of what was rounded; halves are added in float32
    if found.dtype.itemsize > 2:
        largest = 4 * largest.maximum(summands.abs().max())
    slack = torch.finfo(found.dtype).eps * largest  # also: the interpreter's bfloat16 stores truncate
    assert (found.double() - exact).abs().max() <= 2 * (plain.double() - exact).abs().max() + slack


cases = st.builds(
    Case,
    grid=st.builds(
        strided,
        st.builds(
            features,
            st.integers(1, 2),
            st.integers(1, 7),
            st.integers(3, 7),
            st.integers(3, 7),
            st.sampled_from([1, 2, 17, 131]),
            dtype=st.sampled_from(DTYPES),
        ),
        st.sampled_from(["contiguous", "behind a CLS token", "channels first", "padded"]),
    ),
    num_slow=st.integers(0, 5),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@settings(max_examples=min(settings.default.max_examples // 10, 200))  # the interpreter is slow
@given(cases)
def test_tokens_and_gradient_err_at_most_twice_as_much_as_plain_pytorch(backend, case):
    exact = case.formula(case.grid.double())
    found = pool(case.grid, case.plan, backend=backend)
    errs_like(found, case.formula(case.grid), exact, case.grid)
    gradient = features(*exact.shape, dtype=found.dtype)
    mine = gradient_of(lambda grid: pool(grid, case.plan, backend=backend), case.grid, gradient)
    plain = gradient_of(case.formula, case.grid, gradient)
    errs_like(mine, plain, gradient_of(case.formula, case.grid.double(), gradient.double()), gradient)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 2, 27, 27, 33), (2, 19, 5, 3, 7), (1, 3, 2, 40, 300)])
def test_odd_prime_and_large_shapes(shape):
    case = Case(features(*shape, dtype=torch.float32), window=(1, 2) if shape[3] > 1 else (1, 1))
    exact = case.formula(case.grid.double())
    errs_like(pool(case.grid, case.plan, backend="triton"), case.formula(case.grid), exact, case.grid)


@pytest.mark.parametrize("processors", [1, 1000])
def test_rows_shared_out_among_programs_give_the_same_tokens(processors, monkeypatch):
    monkeypatch.setattr(kernels, "_processors", lambda device: processors)
    case = Case(features(2, 3, 7, 5, 6))
    torch.testing.assert_close(pool(case.grid, case.plan, backend="triton"), case.formula(case.grid))


def test_nothing_stays_unwritten():
    torch.use_deterministic_algorithms(True)  # which fills fresh memory with NaN
    try:
        case = Case(features(2, 5, 5, 7, 3).requires_grad_(), window=(2, 3))
        tokens = pool(case.grid, case.plan, backend="triton")
        assert tokens.isfinite().all()
        assert torch.autograd.grad(tokens.sum(), case.grid)[0].isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_goes_where_pytorch_lets_it_go(value, dtype):
    case = Case(features(1, 4, 5, 5, 3, dtype=dtype))
    case.grid[0, 1, 2, 3, 1] = case.grid[0, 3, 4, 4, 2] = value  # in a window; on the border, in none
    case.grid[0, 0, 0, 0, 0], case.grid[0, 0, 0, 1, 0] = value, -value
    found, plain = pool(case.grid, case.plan, backend="triton"), case.formula(case.grid)
    torch.testing.assert_close(found, plain, equal_nan=True, rtol=0, atol=4 * torch.finfo(dtype).eps)
    gradient = torch.full_like(found, value)
    mine = gradient_of(lambda grid: pool(grid, case.plan, backend="triton"), case.grid, gradient)
    torch.testing.assert_close(mine, gradient_of(case.formula, case.grid, gradient), equal_nan=True)


def test_half_sums_do_not_overflow():
    grid = torch.full((1, 1, 16, 16, 2), 60_000.0, dtype=torch.float16, device=DEVICE)
    assert (pool(grid, Case(grid).plan, backend="triton") == 60_000).all()


def test_an_expanded_gradient_is_read_right():
    grid = features(1, 3, 4, 4, 5).requires_grad_()
    pool(grid, Case(grid).plan, backend="triton").sum().backward()  # the gradient of a sum has strides of 0
    mine, grid.grad = grid.grad, None
    Case(grid).formula(grid).sum().backward()
    torch.testing.assert_close(mine, grid.grad)


def test_gradcheck_and_no_second_derivative():
    grid = features(1, 2, 2, 3, 2).requires_grad_()
    pooler = SlowFastPooler(backend="triton")
    assert torch.autograd.gradcheck(pooler, grid, fast_mode=True)  # random projections tell all of what is linear
    (first,) = torch.autograd.grad(pooler(grid).square().sum(), grid, create_graph=True)
    with pytest.raises(RuntimeError, match=r"slow_fast_backward.*no autograd formula"):
        first.sum().backward()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4, 2), (2, 3, 4, 4, 0)])
def test_nothing_in_nothing_out(shape):
    grid = torch.zeros(shape, device=DEVICE, requires_grad=True)
    tokens = pool(grid, Case(grid).plan, backend="triton")
    assert tokens.shape == (shape[0], 3 + 16, shape[4])
    tokens.sum().backward()
    assert grid.grad.shape == shape


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_opcheck():
    options = [(4, 2, 2), (3, 1, 2), (0, 2, 2)]
    for layout in options:
        grid = features(1, 3, 2, 4, 2, dtype=torch.float32).requires_grad_()  # small: the interpreter is slow
        torch.library.opcheck(kernels.slow_fast, (grid, *layout))
        gradient = torch.randn_like(kernels.slow_fast(grid.detach(), *layout))
        torch.library.opcheck(kernels.slow_fast_backward, (gradient, [*grid.shape], *layout))


def test_one_graph_for_all_numbers_of_frames():
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    pooler = SlowFastPooler(backend="triton")
    compiled = torch.compile(pooler, fullgraph=True, dynamic=True, backend=count)
    for t in (5, 9, 30):
        video = features(2, t, 16, 4)
        torch.testing.assert_close(compiled(video), SlowFastPooler(backend="torch")(video))
    assert len(graphs) == 1


COMPILE = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from timetok.pooling import kernels

def ptx(kernel, pointers, **constants):
    constants |= {"num_slow": 4, "high": 2, "wide": 2, "cells": 8, "block": 128, "real": tl.float32}
    names = kernel.arg_names
    types = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    known = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if types[name] != "constexpr"}
    source = ASTSource(fn=kernel, signature=types, constexprs=known, attrs=aligned)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]

print(ptx(kernels._forward, {"grid": "*bf16", "tokens": "*bf16", "sums": "*fp32"}, stride_e=1, splits=1))
print("BACKWARD")
print(ptx(kernels._backward, {"gradient": "*bf16", "out": "*bf16"}))
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_to_wide_loads_and_stores(tmp_path):
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    kept["TRITON_CACHE_DIR"] = str(tmp_path)
    script = [sys.executable, "-c", COMPILE]
    done = subprocess.run(script, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    forward, backward = done.stdout.split("BACKWARD")
    # one of 16 bytes a thread for each patch of a window, without a look-up in between
    assert sum("ld.global" in line and "evict_first" in line and "v4.b32" in line for line in forward.split("\n")) == 4
    assert sum("st.global" in line and "v4.b32" in line for line in backward.split("\n")) == 4


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_are_chosen_and_can_be_captured():
    video = torch.randn(2, 100, 256, 1024, device="cuda", dtype=torch.bfloat16)
    pooler = SlowFastPooler()
    expected = pooler(video)
    exact = SlowFastPooler(backend="torch")(video.double())
    errs_like(expected, SlowFastPooler(backend="torch")(video), exact, video)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = pooler(video)
    tokens.zero_()
    graph.replay()
    assert torch.equal(tokens, expected)
