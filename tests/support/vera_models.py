"""A module named as attention is, and adapters with random vectors on it."""

import torch
import transformers
from tensors import normal
from torch import nn
from transformers.pytorch_utils import Conv1D

from pydelta import vera


class Block(nn.Module):
    """Named as attention is; a Conv1D stands among the linear layers."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(12, 12), nn.Linear(12, 20, bias=False)
        self.out = Conv1D(12, 20)

    def forward(self, x):
        return x + self.out(torch.tanh(self.v_proj(torch.relu(self.q_proj(x)))))


class Model(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.to(dtype)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


TARGETS = ["q_proj", "v_proj", "out"]


def attached(name="default", *, model=None, **options):
    """A module with an adapter whose vectors are random."""
    model = Model() if model is None else model
    adapters = vera.attach(model, **{"targets": TARGETS, "rank": 5, "name": name} | options)
    with torch.no_grad():
        for i, p in enumerate(adapters.parameters(name)):
            p.copy_(normal(*p.shape, seed=i + sum(map(ord, name))) * 0.3)
    return model, adapters


class Classifier(nn.Module):
    """A body, and a head with a buffer."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
        self.head = nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, classes))

    def forward(self, x):
        return self.head(self.body(x))


def trained(name="default", module=None, shift=1.0, **options):
    module = Classifier().eval() if module is None else module
    adapters = vera.attach(module, targets="all-linear", rank=4, name=name, **({"train": ["head"]} | options))
    with torch.no_grad():
        for i, p in enumerate(adapters.parameters(name)):
            p.add_(shift * normal(*p.shape, seed=i))
        module.head[0].running_mean.add_(shift)
    return module, adapters


IDS = torch.tensor([[3, 5, 8, 1]])


def llama(tied=True):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=20,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config).eval()
