"""Mixed batches on a module: every row through its own model."""

import copy

import pytest
import torch
import torch._dynamo.testing
from paths import ROOT
from serving import IDS, Toy, assert_rows_are_models, family
from tensors import assert_same_bits, raises
from tolerance import UNIT

import pydelta
from pydelta import Quantized

MIXED = ["b", "a", "c", "a", "b", "b"]
TOLERANCE = {torch.float32: 2.0**7 * UNIT[torch.float32], torch.bfloat16: 2.0**4 * UNIT[torch.bfloat16]}
"""Of the largest output: a served model rounds activations where a retrieved one rounds weights, in a handful
of layers; half a bit's worth of operations in 16 bits."""


class Around(torch.nn.Module):
    """Puts time first where its layer wants that."""

    def __init__(self, layer, batch_first):
        super().__init__()
        self.layer, self.batch_first = layer, batch_first

    def forward(self, x):
        return self.layer(x) if self.batch_first else self.layer(x.transpose(0, 1)).transpose(0, 1)


def made(folder, dtype=torch.float32, **options):
    torch.manual_seed(0)
    toy = Toy().to(dtype).eval()
    store, models = family(folder, toy, **options)
    bank = store.attach(copy.deepcopy(toy))
    return toy, models, bank


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transform", ["sign", "hadamard", "none"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_run_through_their_models(tmp_path, dtype, transform, shuffle):
    options = {"transform": transform, "shuffle_layers": shuffle, "weights": {"b": 2.0}}
    _, models, bank = made(tmp_path, dtype, **options)
    served = bank.serve(bank.module)
    assert served is bank.module
    for names in (MIXED, ["a"] * 6, ["c", "b", "b", "b", "b", "c"]):
        assert_rows_are_models(served, models, bank, IDS, names, TOLERANCE[dtype])


def test_outside_of_a_batch_it_is_the_base(tmp_path):
    toy, _, bank = made(tmp_path)
    bank.activate("a")
    served = bank.serve()
    with torch.no_grad():
        for x, y in zip(served(IDS), toy(IDS), strict=True):
            assert_same_bits(x, y)
        with bank.models(MIXED):
            inside = served(IDS)[0]
            with bank.models(["a", "b"]):
                served(IDS[:2])
            assert_same_bits(served(IDS)[0], inside)


def test_unserve(tmp_path):
    toy, models, bank = made(tmp_path)
    bank.serve()
    names = [name for name, _ in bank.module.named_parameters()]
    assert names == [name for name, _ in toy.named_parameters()]
    with raises(RuntimeError, "[activate] the bank must not serve mixed batches: call unserve() first"):
        bank.activate("a")
    bank.unserve()
    bank.activate("a")
    with torch.no_grad():
        assert_same_bits(bank.module(IDS)[0], models["a"](IDS)[0])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_inference_mode(tmp_path, mode):
    _, models, bank = made(tmp_path)
    bank.serve()
    with mode(), bank.models(MIXED):
        y = bank.module(IDS)[0]
    assert y.is_inference() == (mode is torch.inference_mode)
    with torch.no_grad():
        torch.testing.assert_close(y[0], models["b"](IDS[:1])[0][0], rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_input(tmp_path):
    """As for one model alone, through every kind of layer but the embedding."""
    _, models, bank = made(tmp_path)
    bank.serve()
    x = torch.randn(2, 5, 32, requires_grad=True)

    def run(module, x):
        for layer in module.layers:
            x = x + torch.tanh(layer(x))
        return module.norm(x)

    with bank.models(["b", "c"]):
        (found,) = torch.autograd.grad(run(bank.module, x).square().sum(), x)
    for row, name in enumerate(["b", "c"]):
        (truth,) = torch.autograd.grad(run(models[name], x[row : row + 1]).square().sum(), x)
        torch.testing.assert_close(found[row], truth[row], rtol=1e-4, atol=1e-3)


def test_compiles(tmp_path):
    """One graph without breaks where layers are linear, norms and heads; other models take no new graph."""
    _, _, bank = made(tmp_path)
    bank.serve()
    body = torch.nn.Sequential(*bank.module.layers, bank.module.norm, bank.module.head)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(body, backend=counter, fullgraph=True)
    x = torch.randn(3, 4, 32)
    with torch.no_grad():
        for names in (["a", "b", "c"], ["c", "c", "a"]):
            with bank.models(names):
                assert_same_bits(compiled(x), body(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("options", [{}, {"shuffle_layers": True}, {"transform": "hadamard"}, {"group": 8}])
@pytest.mark.parametrize(("bits", "buckets"), [(1, 2), (4, 1)])
def test_low_bit_stores(tmp_path, bits, buckets, options):
    """Served from the codes themselves, rows grouped by bucket and slot."""
    _, models, bank = made(tmp_path, bits=bits, buckets=buckets, **options)
    bank.serve()
    assert_rows_are_models(bank.module, models, bank, IDS, MIXED, TOLERANCE[torch.float32])
    assert all(isinstance(s, Quantized) for s in bank.sources._superposed.values())
    assert {bank.store.bucket(name) for name in models} == set(range(buckets))


def test_memory_does_not_grow_with_the_models(tmp_path):
    """Twelve models share one superposition; each adds its exact tensors alone."""
    names = [f"m{i}" for i in range(12)]
    _, _, bank = made(tmp_path, names=names)
    bank.serve()
    with torch.no_grad(), bank.models(names):
        bank.module(torch.zeros(12, 5, dtype=torch.int64))
    superposed = [name for name, rule in bank.store.manifest.rules.items() if rule.rule == "superposed"]
    assert len(bank.sources._superposed) == len(superposed)
    for layer in bank.module.modules():
        served = getattr(layer.forward, "__self__", None)
        if hasattr(served, "superposed"):
            assert len(served.superposed) == 1


def test_what_is_refused(tmp_path):
    toy, _, bank = made(tmp_path)
    with (
        raises(RuntimeError, "[models] the bank must serve mixed batches: call serve() first"),
        bank.models([]),
    ):
        pass
    with raises(ValueError, "[serve] module must be the one that the bank is attached to, got another"):
        bank.serve(toy)
    bank.module.train()
    with raises(ValueError, "[serve] the module must be in evaluation mode: call its eval(), got training"):
        bank.serve()
    bank.module.eval()
    bank.serve()
    message = f"{bank.store.path}: holds no model 'z'; it holds a, b, c"
    with raises(ValueError, message), bank.models(["a", "z"]):
        pass
    for names in ("abc", ["a", 1]):
        rule = f"[models] names must be a list of models' names, got {names!r}"
        with raises(TypeError, rule), bank.models(names):
            pass
    message = "[models] names must have one model for each row of the batch (6), got 4"
    with raises(ValueError, message), bank.models(["a", "b", "c", "a"]):
        bank.module(IDS)
    bank.module.train()
    with raises(ValueError, "[models] the module must be in evaluation mode: call its eval(), got training"):
        bank.models(["a"]).__enter__()


@pytest.mark.parametrize("batch_first", [True, False])
def test_layers_that_read_their_childrens_weights(tmp_path, batch_first):
    """torch's transformer layers run once for each model, time first with the module around them."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first).eval()
    around = Around(layer, batch_first).eval()
    store, models = family(tmp_path, around, size=0.3)
    bank = store.attach(copy.deepcopy(around))
    bank.serve()
    for length in (4, 3):
        x = torch.randn(3, length, 8)
        assert_rows_are_models(bank.module, models, bank, x, ["a", "b", "a"], TOLERANCE[torch.float32])


def test_the_page_on_serving(tmp_path):
    """What docs/serving.md shows runs."""
    page = (ROOT / "docs" / "serving.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    torch.manual_seed(0)
    module = Toy().eval()
    store, _ = family(tmp_path, copy.deepcopy(module), ["cola", "sst2"])
    names = {"pydelta": pydelta, "module": module, "x": IDS[:3]}
    exec(code.replace('"STORE"', repr(str(store.path))), names)
    assert names["bank"].module is module
