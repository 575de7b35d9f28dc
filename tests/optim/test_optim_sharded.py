"""Optimizers over two processes: FSDP2 and DDP take the steps of one process with the whole batch."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

PROGRAM = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from pydelta.optim import SAM, AdamR, MergePerturbation

kind, out = sys.argv[1:]
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 15), torch.nn.Tanh(), torch.nn.Linear(15, 3))
names = [name for name, _ in model.named_parameters()]
shifted = [(p.detach() + 0.1).clone() for p in model.parameters()]
x, y = torch.randn(12, 6), torch.arange(12) % 3
if kind == "fsdp":
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=init_device_mesh("cpu", (world,)))
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    from torch.distributed.tensor import distribute_tensor
    base = [distribute_tensor(b, p.device_mesh, p.placements) for b, p in zip(shifted, model.parameters())]
else:
    base = shifted
net = DistributedDataParallel(model) if kind == "ddp" else model
def make():
    adamr = AdamR(model.parameters(), base, lr=0.05, weight_decay=0.5)
    return SAM(adamr, rho=0.5, adaptive=True, eta=0.1, max_norm=0.3)
sam = make()
rows = slice(rank * 12 // world, (rank + 1) * 12 // world)
def closure():
    loss = cross_entropy(net(x[rows]), y[rows])
    loss.backward()
    return loss
for _ in range(4):
    sam.step(closure)
def full():
    return [(p.full_tensor() if kind == "fsdp" else p).detach().clone() for p in model.parameters()]
noisy = MergePerturbation(torch.optim.SGD(model.parameters(), lr=0.0), base, models=4, alpha=0.5)
states = [full()]
noisy.perturb()
states.append(full())
noisy.step()
states.append(full())
def resumed():
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    dcp.save({"optim": get_optimizer_state_dict(model, sam)}, checkpoint_id=out + ".dcp")
    for _ in range(2):
        sam.step(closure)
    expected = full()
    fresh = make()
    fresh.zero_grad()  # as in a fresh process: torch makes no state beside gradients
    state = {"optim": get_optimizer_state_dict(model, fresh)}
    dcp.load(state, checkpoint_id=out + ".dcp")
    model.load_state_dict(weights)
    set_optimizer_state_dict(model, fresh, state["optim"])
    for _ in range(2):
        fresh.step(closure)
    for a, b in zip(full(), expected, strict=True):
        assert torch.equal(a, b), (a - b).abs().max()
if world > 1:
    resumed()
if rank == 0:
    torch.save([*states, shifted], out)
dist.barrier()
dist.destroy_process_group()
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def trained(kind, world, out):
    port = free_port()
    processes = []
    for rank in range(world):
        own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
        environment = {**os.environ, **own, "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
        environment.pop("TRITON_INTERPRET", None)
        command = [sys.executable, "-c", PROGRAM, kind, str(out)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), json.dumps(errors)
    return torch.load(out)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained("alone", 1, tmp_path_factory.mktemp("alone") / "weights")


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_two_processes_step_like_one(kind, alone, tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch's gloo backend is not present")
    found, perturbed, back, base = trained(kind, 2, tmp_path / "weights")
    for ours, truth in zip(found, alone[0], strict=True):
        assert torch.allclose(ours, truth, atol=2e-6)
    for ours, before in zip(back, found, strict=True):
        assert torch.equal(ours, before)
    noise = perturbed[0] - found[0]
    if kind == "ddp":
        assert torch.allclose(noise, alone[1][0] - alone[0][0], atol=2e-6)
    # As strong as the whole tensor's delta, and no part repeats another's numbers.
    scale = float((found[0] - base[0]).abs().mean())
    assert float(noise.abs().mean()) == pytest.approx(scale, rel=0.35)
    assert not torch.allclose(noise[:7], noise[8:], atol=1e-3 * scale)
