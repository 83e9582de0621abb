"""Which backend pools, and what it says when it cannot."""

import subprocess
import sys

import pytest
import torch

from timetok import SlowFastPooler
from timetok.errors import ArgumentError
from timetok.pooling import BACKENDS, PRESETS, choose


def test_auto_takes_the_kernels_on_a_gpu_only():
    assert choose(PRESETS["lita"], "cuda") == "triton"
    assert choose(PRESETS["lita"], "cpu") == choose(PRESETS["lita"], "mps") == "torch"
    assert choose(PRESETS["tsp"], "cuda") == "torch"


def test_pytorch_can_do_everything():
    assert {BACKENDS["torch"].why_not(plan, "cuda") for plan in PRESETS.values()} == {""}


@pytest.mark.parametrize("name", ["lita-spatial", "lita-spatial-pool", "lita-1.5", "slowfast-llava-7b", "tsp"])
def test_a_named_backend_does_it_or_says_why_not(name):
    dim = 8 if PRESETS[name].separators else None
    with pytest.raises(ArgumentError, match="backend: 'triton' cannot pool here: its kernels know plans of one token"):
        SlowFastPooler(preset=name, dim=dim, backend="triton")


def test_windows_that_the_kernels_do_not_unroll():
    with pytest.raises(ArgumentError, match="at most one path: means of up to 8 x 8 patches"):
        SlowFastPooler(slow_pool=9, backend="triton")


def test_an_unknown_backend():
    with pytest.raises(ArgumentError, match="backend: expected one of auto, triton, torch, got 'cuda'"):
        SlowFastPooler(backend="cuda")


def test_the_choice_is_not_part_of_the_layout():
    assert SlowFastPooler(backend="torch").arguments == SlowFastPooler().arguments


def test_without_interpreter_a_cpu_is_refused_by_name():
    code = """
import os
os.environ.pop("TRITON_INTERPRET", None)
import torch
from timetok import SlowFastPooler
print(SlowFastPooler()(torch.zeros(1, 2, 4, 3)).shape)
SlowFastPooler(backend="triton")(torch.zeros(1, 2, 4, 3))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "[1, 6, 3]" in done.stdout
    assert "its kernels run on a GPU, not on cpu, unless TRITON_INTERPRET=1 is set" in done.stderr


def test_integers_are_no_features():
    with pytest.raises(ArgumentError, match=r"features: expected floats .* got torch.int64"):
        SlowFastPooler()(torch.zeros(1, 2, 4, 3, dtype=torch.int64))
