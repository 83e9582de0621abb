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
from peft import PeftModel
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import tiny_lm
import two_processes
from tiny_training import arguments, assert_same, gradients, model_of, rows

TESTS = Path(two_processes.__file__).parent
EXAMPLES = TESTS.parent / "examples"


def run(task, folder):
    """Run a task in two processes, on a port of their own; what it wrote."""
    for name in {*two_processes.DDP, *two_processes.FSDP2}:
        (folder / name).mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(TESTS / "two_processes.py"), task, str(folder)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    """Also a step in which one process has no video, which neither holds the other up nor parts their weights."""
    return run("ddp", tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory):
    return run("fsdp2", tmp_path_factory.mktemp("fsdp2"))


@pytest.mark.parametrize("name", two_processes.DDP)
def test_two_processes_have_the_gradients_of_one(name, ddp, tmp_path):
    folder, adapter = ddp / name, model_of(name)
    options = {"max_steps": 2, "per_device_train_batch_size": two_processes.GLOBAL_BATCH}
    alone = gradients(adapter, arguments(tmp_path / "alone", **options))
    for step, expected in enumerate(alone):
        for rank in (0, 1):
            found = load_file(folder / f"grads-{step}-{rank}.safetensors")
            assert found.keys() == expected.keys()
            for key, gradient in expected.items():  # halves of a batch add up in another order
                error, largest = (found[key] - gradient).abs().max(), gradient.abs().max()
                assert error <= 1e-5 * largest, (key, error, largest)
    written = folder / "run" / "checkpoint-2"
    if "lora" in name:
        checkpoint = PeftModel.from_pretrained(model_of(name.partition("-")[0]), written)
    else:
        checkpoint = model_of(name, seed=1)
        checkpoint.load_state_dict(load_file(written / "model.safetensors"))
    assert_same(checkpoint.state_dict(), adapter.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", two_processes.FSDP2)
def test_a_step_on_shards_is_the_step_on_the_whole(name, fsdp2, tmp_path):
    folder, adapter = fsdp2 / name, model_of(name).train()
    adapter(**adapter.processor.collate(rows(two_processes.GLOBAL_BATCH))).loss.backward()
    torch.optim.SGD(adapter.parameters(), lr=two_processes.STEP).step()
    whole = load_file(folder / "whole.safetensors")
    assert_same(whole, adapter.state_dict(), rtol=1e-4, atol=1e-6)

    again = model_of(name, seed=1)
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
