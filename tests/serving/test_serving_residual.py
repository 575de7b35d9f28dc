"""Exact residuals on live modules: swapped in, and in mixed batches."""

import copy

import pytest
import torch
import torch._dynamo.testing
from serving import IDS, Toy, assert_rows_are_models, family, state_of
from tensors import assert_same_bits
from tolerance import UNIT

from pydelta import hf, load_checkpoint
from pydelta.superposition.reading.residual import ResidualElements
from pydelta.superposition.serving.residual import difference

MIXED = ["b", "a", "c", "a", "b", "b"]
TOLERANCE = {torch.float32: 2.0**7 * UNIT[torch.float32], torch.bfloat16: 2.0**4 * UNIT[torch.bfloat16]}
"""As in test_serving.py: products with the sparse difference are a few more roundings of the same size."""
FORMS = {
    "full": {"weights": {"b": 2.0}},
    "shuffled": {"shuffle_layers": True, "transform": "hadamard"},
    "codes": {"bits": 1, "buckets": 2},
}


def made(folder, dtype=torch.float32, **options):
    torch.manual_seed(0)
    toy = Toy().to(dtype).eval()
    store, models = family(folder, toy, residual=0.1, **options)
    return models, store, store.attach(copy.deepcopy(toy))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_on_a_live_module(tmp_path, form, dtype):
    """Activated, the bits of ``retrieve``; in a mixed batch, each row what its model gives alone."""
    models, _, bank = made(tmp_path, dtype, **FORMS[form])
    for name in ("a", "c", "a", "b"):
        bank.activate(name)
        for tensor, x in state_of(models[name]).items():
            assert_same_bits(bank.module.state_dict()[tensor].float(), x.float())
    true = load_checkpoint(tmp_path / "b.safetensors")["embed.weight"]
    assert (bank.module.embed.weight == true).float().mean() >= 0.09
    bank.serve()
    for names in (MIXED, ["c"] * 6):
        assert_rows_are_models(bank.module, models, bank, IDS, names, TOLERANCE[dtype])


def test_it_is_the_residual_that_makes_the_difference(tmp_path):
    """The same store without its residuals is far from what the rows give."""
    models, store, bank = made(tmp_path, bits=1)
    bank.serve()
    with torch.no_grad(), bank.models(["a"] * 6):
        served = bank.module(IDS)[0]
    store.files.residual = {}
    bare = store.attach(copy.deepcopy(models["a"]))
    bare.activate("a")
    with torch.no_grad():
        far = float((bare.module(IDS)[0] - served).abs().max())
        near = float((models["a"](IDS)[0] - served).abs().max())
    assert far > 100 * near


def test_gradients_and_modes(tmp_path):
    models, _, bank = made(tmp_path)
    bank.serve()
    x = torch.randn(2, 5, 32, requires_grad=True)
    with bank.models(["b", "c"]):
        (found,) = torch.autograd.grad(bank.module.layers[0](x).square().sum(), x)
    for row, name in enumerate(["b", "c"]):
        (truth,) = torch.autograd.grad(models[name].layers[0](x[row : row + 1]).square().sum(), x)
        torch.testing.assert_close(found[row], truth[row], rtol=1e-4, atol=1e-3)
    with torch.inference_mode(), bank.models(MIXED):
        assert bank.module(IDS)[0].is_inference()


def test_compiles(tmp_path):
    _, _, bank = made(tmp_path)
    bank.serve()
    body = torch.nn.Sequential(*bank.module.layers, bank.module.norm, bank.module.head)
    compiled = torch.compile(body, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 4, 32)
    with torch.no_grad():
        for names in (["a", "b", "c"], ["c", "c", "a"]):
            with bank.models(names):
                assert_same_bits(compiled(x), body(x))


@pytest.mark.parametrize("turn", [False, True])
def test_a_sparse_product_is_the_dense_one(turn):
    """Small integers, which every sum holds exactly."""
    generator = torch.Generator().manual_seed(3)
    shape = (7, 12)
    retrieved = torch.randint(-4, 5, shape, generator=generator).float()
    tuned = torch.randint(-4, 5, shape, generator=generator).to(torch.bfloat16)
    places = torch.randperm(84, generator=generator)[:20].sort()[0]
    patch = ResidualElements(places, tuned.view(-1)[places])
    dense = torch.zeros(84)
    dense[places] = tuned.view(-1)[places].float() - retrieved.view(-1)[places]
    dense = dense.view(shape).T if turn else dense.view(shape)
    x = torch.randint(-4, 5, (2, 3, dense.shape[1]), generator=generator).float()
    assert torch.equal(difference(patch, retrieved, input_first=turn).product(x), x @ dense.T)


def test_rows_and_strides_of_a_patch():
    x = torch.arange(30.0).view(5, 6)
    patch = ResidualElements(torch.tensor([0, 5, 6, 13, 14, 29]), -torch.arange(1.0, 7.0))
    whole = x.clone()
    patch.put(whole)
    turned = x.T.contiguous().T
    patch.put(turned)
    assert torch.equal(turned, whole)
    rows = torch.tensor([2, 0, 3, 2, 4, 4])
    found = x[rows]
    patch.put_rows(found, rows)
    assert torch.equal(found, whole[rows])
    part = x.view(-1)[5:14].clone()
    patch.part(5, 9).put(part)
    assert torch.equal(part, whole.view(-1)[5:14])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers(tmp_path, kind):
    """(in, out) weights, and grouped queries; swapped in by hf.load."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=30, n_positions=16, n_embd=32, n_layer=1, n_head=4)
        model = transformers.GPT2LMHeadModel(config)
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 30}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))
    model.config.architectures = [type(model).__name__]
    model.eval()
    store, models = family(tmp_path, model, config=model.config, residual=0.05, bits=1)
    alone = {name: lambda x, net=net: net(x).logits for name, net in models.items()}
    bank = store.attach(copy.deepcopy(model))
    bank.serve()
    tolerance = 2.0**10 * UNIT[torch.float32]
    assert_rows_are_models(lambda x: bank.module(x).logits, alone, bank, IDS % 20, MIXED, tolerance)
    found, _ = hf.load(store, "b")
    with torch.no_grad():
        assert_same_bits(found(IDS).logits, models["b"](IDS).logits)
