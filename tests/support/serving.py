"""Modules and stores for the serving tests: a base, fine-tunes with random deltas, and their store."""

import copy

import torch

from pydelta import Superposition, save_checkpoint

NAMES = ("a", "b", "c")
IDS = torch.arange(30).view(6, 5) % 20


class Position(torch.nn.Module):
    """A parameter of a module that is no layer of torch's."""

    def __init__(self, width):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(1, 5, width))

    def forward(self, x):
        return x + self.table[:, : x.shape[1]]


class Toy(torch.nn.Module):
    """An embedding, layers of one kind, a convolution, norms, biases, a tied head and buffers."""

    def __init__(self, width=32, layers=2, tied=True):
        super().__init__()
        self.embed = torch.nn.Embedding(20, width)
        self.position = Position(width)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(layers))
        self.norm = torch.nn.LayerNorm(width)
        self.conv = torch.nn.Conv1d(width, 8, 3)
        self.head = torch.nn.Linear(width, 20, bias=False)
        self.register_buffer("steps", torch.arange(5))
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.position(self.embed(ids))
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        x = self.norm(x)
        return self.head(x), self.conv(x.mT)


def state_of(module):
    """The state dict as a file holds it: tied tensors once."""
    found, seen = {}, set()
    for name, x in module.state_dict().items():
        if x.data_ptr() not in seen:
            found[name] = x.detach().clone()
            seen.add(x.data_ptr())
    return found


def moved(state, seed, size):
    """``state`` with random deltas."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (x.float() + size * torch.randn(x.shape, generator=generator)).to(x.dtype)
        if x.is_floating_point()
        else x
        for name, x in state.items()
    }


def family(folder, module, names=NAMES, *, size=0.05, config=None, **options):
    """(the store, name -> a module with that fine-tune's retrieved weights). ``module`` is the base."""
    folder.mkdir(exist_ok=True)
    base = state_of(module)
    save_checkpoint(base, folder / "base")
    if config is not None:
        config.save_pretrained(folder / "base")
    paths = {name: folder / f"{name}.safetensors" for name in names}
    for i, path in enumerate(paths.values()):
        save_checkpoint(moved(base, i + 1, size), path)
    store = Superposition.create(folder / "base", paths, folder / "store", **options)
    return store, {name: loaded(module, store.retrieve(name)) for name in names}


def loaded(module, state):
    found = copy.deepcopy(module).eval()
    assert not found.load_state_dict(state, strict=False).unexpected_keys
    return found


def outputs(found):
    """A module's output as a tuple of tensors."""
    if isinstance(found, torch.Tensor):
        return (found,)
    return tuple(x for x in (found.values() if hasattr(found, "values") else found) if torch.is_tensor(x))


def assert_rows_are_models(run, alone, bank, inputs, names, tolerance):
    """A mixed batch gives each row what its model alone gives, to a tolerance of the outputs' size."""
    with torch.no_grad(), bank.models(names):
        mixed = outputs(run(inputs))
    for row, name in enumerate(names):
        with torch.no_grad():
            truth = outputs(alone[name](inputs[row : row + 1]))
        for x, y in zip(mixed, truth, strict=True):
            error = float((x[row : row + 1].float() - y.float()).abs().max())
            assert error <= tolerance * float(y.float().abs().max()), (row, name, error)


def assert_swaps_and_mixes(bank, alone):
    """Swapped in, a model gives what it alone gives, to the bit; in a mixed batch to a tolerance."""
    for name in NAMES:
        bank.activate(name)
        with torch.no_grad():
            assert torch.equal(bank.module(IDS)[0], alone[name](IDS)[0])
    bank.serve()
    assert_rows_are_models(bank.module, alone, bank, IDS, ["b", "a", "c", "a", "b", "b"], 2e-5)
