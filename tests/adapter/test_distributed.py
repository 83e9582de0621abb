"""Two processes on a CPU: what they compute together is what one computes alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import tiny_lm
import two_processes
from tiny_training import arguments, assert_same, gradients, rows

TESTS = Path(two_processes.__file__).parent
EXAMPLES = TESTS.parent / "examples"
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def run(task, folder):
    """Run a task in two processes, on a port of their own; what it wrote."""
    for name in ("tied", "untied"):
        (folder / name).mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(TESTS / "two_processes.py"), task, str(folder)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    """Also a step in which one process has no video, which neither holds the other up nor parts their weights."""
    return run("ddp", tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory):
    return run("fsdp2", tmp_path_factory.mktemp("fsdp2"))


@TIED
def test_two_processes_have_the_gradients_of_one(tied, ddp, tmp_path):
    folder = ddp / ("tied" if tied else "untied")
    adapter = tiny_lm.adapter(tied=tied)
    options = {"max_steps": 2, "per_device_train_batch_size": two_processes.GLOBAL_BATCH}
    alone = gradients(adapter, arguments(tmp_path / "alone", **options))
    for step, expected in enumerate(alone):
        for rank in (0, 1):
            found = load_file(folder / f"grads-{step}-{rank}.safetensors")
            assert_same(found, expected, rtol=1e-4, atol=1e-6)
    checkpoint = tiny_lm.adapter(tied=tied, seed=1)
    checkpoint.load_state_dict(load_file(folder / "run" / "checkpoint-2" / "model.safetensors"))
    assert_same(checkpoint.state_dict(), adapter.state_dict(), rtol=1e-4, atol=1e-6)


@TIED
def test_a_step_on_shards_is_the_step_on_the_whole(tied, fsdp2, tmp_path):
    folder = fsdp2 / ("tied" if tied else "untied")
    adapter = tiny_lm.adapter(tied=tied).train()
    adapter(**adapter.processor.collate(rows(two_processes.GLOBAL_BATCH))).loss.backward()
    torch.optim.SGD(adapter.parameters(), lr=two_processes.STEP).step()
    whole = load_file(folder / "whole.safetensors")
    assert_same(whole, adapter.state_dict(), rtol=1e-4, atol=1e-6)

    again = tiny_lm.adapter(tied=tied, seed=1)
    again.load_state_dict(whole, strict=True)
    prompt = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    answer = again.eval().generate(**prompt, max_new_tokens=4, do_sample=False)
    assert torch.equal(answer, load_file(folder / "answer.safetensors")["answer"])

    dcp_to_torch_save(folder / "shards", tmp_path / "shards.pt")  # the shards, without the processes
    assembled = torch.load(tmp_path / "shards.pt", weights_only=True)["model"]
    assert_same(assembled, whole, rtol=0, atol=0)


def test_the_accelerate_configuration_is_read_and_finds_the_layers(monkeypatch):
    config = load_config_from_file(str(EXAMPLES / "fsdp2.yaml"))
    assert config.distributed_type == DistributedType.FSDP and config.num_processes == 2
    launched = launch_command_parser().parse_args(["--config_file", str(EXAMPLES / "fsdp2.yaml"), "train.py"])
    known = {name for name in vars(launched) if name.startswith("fsdp_")}
    assert set(config.fsdp_config) <= known, set(config.fsdp_config) - known
    for name, value in config.fsdp_config.items():
        monkeypatch.setenv(name.upper(), str(value))
    plugin, adapter = FullyShardedDataParallelPlugin(), tiny_lm.adapter()
    assert plugin.fsdp_version == 2
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, adapter)
    assert [name for name, module in adapter.named_modules() if wraps(module)] == [
        "lm.model.layers.0",
        "lm.model.layers.1",
    ]
