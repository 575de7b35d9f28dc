"""VeRA trains: with every optimizer, with checkpointing, in mixed precision, in parallel, with dropout."""

import pytest
import torch
from tensors import assert_same_bits, normal
from torch import nn
from torch.utils.checkpoint import checkpoint
from vera_models import attached

OPTIMIZERS = [
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam", "LBFGS", "Muon")
]


@pytest.mark.parametrize("kind", [*OPTIMIZERS, "LBFGS"])
def test_every_optimizer_trains(kind):
    """Only sparse gradients and matrices (Muon) have optimizers that vectors cannot have."""
    model, adapters = attached(targets=["q_proj"])
    x, target = normal(8, 12), normal(8, 12, seed=1)
    optimizer = getattr(torch.optim, kind)(list(adapters.parameters()), lr=0.01)
    before = [p.detach().clone() for p in model.parameters() if not p.requires_grad]

    def loss():
        optimizer.zero_grad()
        value = ((model(x) - target) ** 2).mean()
        value.backward()
        return value

    losses = [float(optimizer.step(loss).detach()) for _ in range(4)]
    assert losses[-1] < losses[0]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert all(map(torch.equal, frozen, before))


def gradients(model, adapters, run):
    loss = run(model).float().square().sum()
    return torch.autograd.grad(loss, list(adapters.parameters()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    model, adapters = attached()
    x = normal(4, 12).requires_grad_()

    def checkpointed(model):
        y = x
        for layer in model.layers:
            y = checkpoint(layer, y, use_reentrant=reentrant)
        return y

    if reentrant:
        checkpointed(model).square().sum().backward()
        found = [p.grad for p in adapters.parameters()]
    else:
        found = gradients(model, adapters, checkpointed)
    torch.testing.assert_close(tuple(found), gradients(model, adapters, lambda model: model(x)))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_mixed_precision(dropout):
    model, adapters = attached(dropout=dropout)
    x = normal(4, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype in (torch.bfloat16, torch.float32)
    y.float().sum().backward()
    assert all(p.grad.dtype is torch.float32 and p.grad.abs().sum() > 0 for p in adapters.parameters())
    if dropout == 0:
        distance = (y.detach().float() - model(x).detach()).norm()
        assert float(distance) < 0.05 * float(model(x).detach().norm())


def test_data_parallel(tmp_path):
    """One process: what counts is that the matrices are neither parameters nor buffers."""
    model, adapters = attached()
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(normal(4, 12)).sum().backward()
        synchronised = sum(p.numel() for p in parallel.parameters() if p.requires_grad)
    finally:
        torch.distributed.destroy_process_group()
    assert synchronised == sum(p.numel() for p in adapters.parameters())
    assert all(p.grad is not None for p in adapters.parameters())
    assert list(parallel.buffers()) == []


def test_dropout_is_of_the_adapters_input_in_training_alone():
    model, _ = attached(dropout=0.5, targets=["q_proj"])
    x = normal(64, 12)
    model.train()
    torch.manual_seed(0)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    model.eval()
    assert_same_bits(model(x), model(x))
    torch.testing.assert_close(model(x), attached(targets=["q_proj"])[0](x))
