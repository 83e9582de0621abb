"""What two processes do on a CPU; ``tests/adapter/test_distributed.py`` starts it by torchrun.

python -m torch.distributed.run --nproc_per_node 2 tests/two_processes.py ddp|fsdp2 FOLDER
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

import tiny_lm
from tiny_training import arguments, gradients, model_of, rows

GLOBAL_BATCH, STEP = 4, 0.05
DDP = ["tied", "untied", "tied-lora", "untied-lora"]  # models, and folders of what was found
FSDP2 = ["tied", "untied", "tied-accelerate", "untied-accelerate", "tied-lora", "untied-lora"]


def ddp(folder, name):
    """Two steps of the HF Trainer, each of two processes with half of the batch; its gradients, by rank."""
    adapter = model_of(name)
    wrapped = []
    adapter.register_forward_hook(lambda *_: wrapped.append(dist.get_world_size()))
    options = {"per_device_train_batch_size": GLOBAL_BATCH // 2, "max_steps": 2, "save_strategy": "steps"}
    args = arguments(folder / "run", save_steps=2, **options)
    assert args.world_size == 2 and args.parallel_mode.value == "distributed"
    steps = gradients(adapter, args)
    assert wrapped == [2, 2] and dist.get_backend() == "gloo"
    for index, grads in enumerate(steps):
        save_file(grads, folder / f"grads-{index}-{dist.get_rank()}.safetensors")


def ddp_without_a_video(folder):
    """A row with a video and one of text alone: one of the processes has no gradient for the projector."""
    adapter = tiny_lm.adapter()
    seen, text = rows(2)
    del text["video_features"]
    data = [seen, text | {"prompt": "When? ASSISTANT:"}]
    options = {"per_device_train_batch_size": 1, "max_steps": 1, "ddp_find_unused_parameters": True}
    run = Trainer(adapter, arguments(folder, **options), train_dataset=data, data_collator=adapter.processor.collator())
    before = adapter.projector.weight.detach().clone()
    run.train()
    assert isinstance(run.model_wrapped, DistributedDataParallel)
    after = adapter.projector.weight.detach()
    assert not torch.equal(after, before)
    both = [torch.empty_like(after) for _ in range(2)]
    dist.all_gather(both, after.contiguous())
    assert torch.equal(*both)


def sharded(adapter, name):
    """FSDP2: a group a layer, the rest in one; ``generate`` is no forward, so it is named.

    Or in groups of accelerate's own. Its ``Accelerator`` refuses FSDP on a CPU, so it has a stand-in.
    """
    if "accelerate" in name:
        policy = {"auto_wrap_policy": "transformer_based_wrap", "reshard_after_forward": True}
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False, **policy)
        state = SimpleNamespace(fsdp_plugin=plugin)
        fsdp2_prepare_model(SimpleNamespace(state=state, mixed_precision="no", is_main_process=True), adapter)
    else:
        mesh = init_device_mesh("cpu", (2,))
        for layer in adapter.lm.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(adapter, mesh=mesh)
    register_fsdp_forward_method(adapter, "generate")
    return adapter


def fsdp2(folder, name):
    """One step on sharded parameters, each process with half of the batch; the weights before and after it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    assert world == 2
    adapter = sharded(model_of(name), name).train()
    assert isinstance(adapter, FSDPModule)
    assert all(isinstance(parameter, DTensor) for parameter in adapter.parameters())
    local = sum(parameter.to_local().numel() for parameter in adapter.parameters())
    whole = sum(parameter.numel() for parameter in adapter.parameters())
    assert local < 0.52 * whole, (local, whole)

    optimizer = torch.optim.SGD(adapter.parameters(), lr=STEP)
    data = rows(GLOBAL_BATCH)
    targets = int((adapter.processor.collate(data)["labels"] != -100).sum())
    batch = adapter.processor.collate(data[rank * 2 : rank * 2 + 2])
    loss = adapter(**batch, num_items_in_batch=targets).loss
    (loss * world).backward()  # FSDP divides gradients by the number of processes
    assert all(isinstance(weight.grad, DTensor) for weight in adapter.parameters() if weight.requires_grad)
    optimizer.step()

    adapter.eval()
    prompt = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    answer = adapter.generate(**prompt, max_new_tokens=4, do_sample=False)
    full = get_model_state_dict(adapter, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in full.items()}, folder / "whole.safetensors")
        save_file({"answer": answer}, folder / "answer.safetensors")

    dcp.save({"model": get_model_state_dict(adapter)}, checkpoint_id=str(folder / "shards"))
    other = sharded(model_of(name, seed=1), name).eval()
    state = {"model": get_model_state_dict(other)}
    dcp.load(state, checkpoint_id=str(folder / "shards"))
    set_model_state_dict(other, state["model"])
    assert torch.equal(other(**prompt).logits, adapter(**prompt).logits)
    first, last = (other.lm.get_submodule(path) for path in ("model.embed_tokens", "lm_head"))
    first, last = (getattr(module, "original_module", module) for module in (first, last))  # within peft's wrapper
    assert (last.weight is first.weight) == name.startswith("tied")


if __name__ == "__main__":
    task, where = sys.argv[1], Path(sys.argv[2])
    if task == "fsdp2":
        dist.init_process_group("gloo")
        for name in FSDP2:
            fsdp2(where / name, name)
    else:
        for name in DDP:
            ddp(where / name, name)
        ddp_without_a_video(where / "text")
    dist.destroy_process_group()
