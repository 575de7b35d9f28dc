"""Stores on transformers models: small random ones of four families."""

import copy
import json
import sys

import pytest
import torch
from hf_models import bert, gpt2, llama, made, vit
from serving import assert_rows_are_models
from tensors import assert_same_bits, raises
from tolerance import UNIT

import pydelta
from pydelta import Superposition, hf

transformers = pytest.importorskip("transformers")

NAMES = ["b", "a", "c", "a", "b", "b"]
IDS = torch.arange(24).view(6, 4) % 23
PIXELS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
FLOAT, BF16 = 2.0**10 * UNIT[torch.float32], 2.0**4 * UNIT[torch.bfloat16]
"""A network of a few layers, softmax and norms between: some hundred roundings, of the largest output."""


def run(module):
    """A batch to logits."""

    def forward(x):
        return module(x).logits

    return forward


def batch_of(model):
    return PIXELS.to(model.dtype) if model.config.model_type == "vit" else IDS


@pytest.mark.parametrize("make", [bert, vit, gpt2, llama])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.bfloat16, {"dtype": "bf16"}),
        (torch.float32, {"shuffle_layers": True, "transform": "hadamard"}),
        (torch.float32, {"bits": 1, "buckets": 2}),
    ],
)
def test_activate_and_mixed_batches(tmp_path, make, dtype, options):
    base, store, models = made(tmp_path, make, dtype, **options)
    live = copy.deepcopy(base)
    bank, x = store.attach(live), batch_of(base)
    with torch.no_grad():
        plain = run(base)(x)
        for name in ("c", "a"):
            bank.activate(name)
            found = run(live)(x)
            assert_same_bits(found, run(models[name])(x))
            assert not torch.equal(found, plain)
    bank.serve()
    alone = {name: run(model) for name, model in models.items()}
    tolerance = BF16 if dtype is torch.bfloat16 else FLOAT
    assert_rows_are_models(run(live), alone, bank, x, NAMES, tolerance)
    assert_rows_are_models(run(live), alone, bank, x, ["c"] * 6, tolerance)
    with torch.no_grad():
        assert_same_bits(run(live)(x), plain)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_generation_with_a_cache(tmp_path, make):
    base, store, models = made(tmp_path, make)
    bank = store.attach(copy.deepcopy(base))
    bank.serve()
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with bank.models(NAMES[:3]) as module:
        mixed = module.generate(IDS[:3] + 1, **options)
    for row, name in enumerate(NAMES[:3]):
        alone = models[name].generate(IDS[row : row + 1] + 1, **options)
        assert torch.equal(mixed[row : row + 1], alone)


def test_compiled(tmp_path):
    """A whole transformer under torch.compile, one batch of models after another."""
    base, store, _ = made(tmp_path, llama)
    bank = store.attach(copy.deepcopy(base))
    bank.serve()
    compiled = torch.compile(bank.module, backend="aot_eager")
    with torch.no_grad():
        for names in (NAMES, NAMES[::-1]):
            with bank.models(names):
                found, truth = (model(IDS, use_cache=False).logits for model in (compiled, bank.module))
            assert_same_bits(found, truth)


def test_a_body_without_its_prefix(tmp_path):
    _, store, models = made(tmp_path, gpt2)
    body = transformers.GPT2Model(models["a"].config).eval()
    store.attach(body).activate("b")
    with torch.no_grad():
        found, truth = body(IDS).last_hidden_state, models["b"].transformer(IDS).last_hidden_state
    assert_same_bits(found, truth)


@pytest.mark.parametrize("make", [bert, llama])
def test_load(tmp_path, make):
    _, store, models = made(tmp_path, make, torch.bfloat16)
    for given in (store, store.path):
        model, tokenizer = hf.load(given, "b")
        assert type(model) is type(models["b"])
        assert tokenizer is None
        assert not model.training
        found, truth = model.state_dict(), models["b"].state_dict()
        assert found.keys() == truth.keys()
        for name, x in found.items():
            assert_same_bits(x, truth[name])
    assert pydelta.hf is hf


def test_load_with_a_tokenizer(tmp_path):
    _, store, _ = made(tmp_path, bert)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
    (tmp_path / "base" / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    _, tokenizer = hf.load(store.path, "a")
    assert tokenizer("hello world")["input_ids"] == [2, 5, 6, 3]


def test_load_refuses(tmp_path, monkeypatch):
    base, store, _ = made(tmp_path, bert)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        with raises(ImportError, "[hf.load] transformers must be installed: pip install 'pydelta[hf]'"):
            hf.load(store, "a")
    with raises(ValueError, f"{store.path}: holds no model 'z'; it holds a, b, c"):
        hf.load(store, "z")
    base.config.architectures = ["NoSuchModel"]
    base.config.save_pretrained(tmp_path / "base")
    rule = "must be a folder whose config.json names an architecture of transformers, got 'NoSuchModel'"
    with raises(ValueError, f"{tmp_path / 'base'}: {rule}"):
        hf.load(Superposition.open(store.path), "a")
