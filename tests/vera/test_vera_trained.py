"""Parts that an adapter trains in full, tied output layers, and modules whose wrappers rename layers."""

import copy
import json

import pytest
import safetensors
import torch
from paths import GOLDEN
from tensors import assert_same_bits, normal, raises
from torch import nn
from vera_models import IDS, Classifier, Model, attached, llama, trained

from pydelta import cli, load_checkpoint, vera

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _nothing_kept():
    vera.forget()


def test_a_head_is_trained_beside_the_vectors():
    module, plain = Classifier(), Classifier()
    adapters = vera.attach(module, targets="all-linear", rank=4, train=["head"])
    assert list(adapters.layers) == ["body.0", "body.2"]
    free = {name for name, p in module.named_parameters() if p.requires_grad}
    head = {f"head.{name}" for name, _ in plain.head.named_parameters()}
    assert free == head | {f"body.{i}.{part}.default" for i in (0, 2) for part in "db"}
    assert len(list(adapters.parameters())) == 4 + 4
    module(normal(5, 12)).square().sum().backward()
    assert all(p.grad is not None for p in adapters.parameters())
    assert set(adapters.state_dict()) == {
        "seed",
        *(f"body.{i}.{part}" for i in (0, 2) for part in "db"),
        *(f"head.{key}" for key in plain.head.state_dict()),
    }


def test_each_adapter_has_its_own_head():
    module, adapters = trained("a")
    x, base = normal(5, 12), Classifier().eval()(normal(5, 12))
    of_a = module(x)
    _, adapters = trained("b", module, shift=2.0)
    of_b = module(x)
    assert not torch.equal(of_a, of_b)
    for name, truth in (("a", of_a), (None, base), ("b", of_b), ("a", of_a)):
        adapters.use(name)
        assert_same_bits(module(x), truth)
    with (
        raises(
            ValueError, "[vera] mixed adapters must have no trained parts, got 'head' of 'a', 'head' of 'b'"
        ),
        adapters.mixed(torch.zeros(5, dtype=torch.int64)),
    ):
        pass
    module.double()
    adapters.use("b")
    assert module.head[1].weight.dtype is torch.float64
    other = copy.deepcopy(module)
    vera.Adapters(other).use(None)
    assert not torch.equal(other.head[1].weight, module.head[1].weight)
    vera.Adapters(module).detach()
    module.float()
    assert_same_bits(module(x), base)


def test_a_head_is_merged_and_stays():
    module, adapters = trained()
    x, truth = normal(5, 12), module(normal(5, 12))
    adapters.merge()
    torch.testing.assert_close(module(x), truth, rtol=1e-5, atol=1e-5)
    plain = adapters.detach()
    assert plain.state_dict().keys() == Classifier().state_dict().keys()
    torch.testing.assert_close(plain(x), truth, rtol=1e-5, atol=1e-5)


def test_a_head_in_the_file(tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    module, adapters = trained()
    vera.save(file, adapters)
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.metadata()["pydelta.vera"] == "2"
        assert json.loads(opened.metadata()["trained"]) == ["head"]
        assert set(opened.keys()) == {"vectors", *(f"trained.head.{key}" for key in module.head.state_dict())}
    other = Classifier().eval()
    vera.load(file, other)
    assert_same_bits(other(normal(5, 12)), module(normal(5, 12)))
    assert_same_bits(other.head[0].running_mean, module.head[0].running_mean)
    listed = vera.inspect(file)
    assert listed["trained"] == [{"name": "head", "parameters": 3 * 12 + 3 + 4 * 12 + 1}]
    assert listed["bytes_beside_vectors"] < 1500
    assert cli.main(["vera", "inspect", str(file)]) == 0
    assert "head  88 parameters, trained in full" in capsys.readouterr().out
    with raises(
        ValueError,
        f"{file}: does not fit this module: 'head' has 1.bias of shape (4,), not (3,); "
        "'head' has 1.weight of shape (4, 12), not (3, 12)",
    ):
        vera.load(file, Classifier(4))
    adapters.load_state_dict({key: x.clone() for key, x in adapters.state_dict().items()})


@pytest.mark.parametrize("has_head", [True, False])
def test_a_head_merged_on_the_command_line(tmp_path, has_head):
    module, adapters = trained()
    vera.save(tmp_path / "a.safetensors", adapters)
    weights = {k: x for k, x in Classifier().state_dict().items() if has_head or not k.startswith("head")}
    safetensors.torch.save_file(weights, tmp_path / "base.safetensors")
    out = tmp_path / "out.safetensors"
    names = [str(tmp_path / name) for name in ("base.safetensors", "a.safetensors")]
    assert cli.main(["vera", "merge", *names, "-o", str(out), "--quiet"]) == 0
    plain = Classifier().eval()
    plain.load_state_dict(load_checkpoint(out))
    torch.testing.assert_close(plain(normal(5, 12)), module(normal(5, 12)), rtol=1e-5, atol=1e-5)


def test_a_head_of_other_classes_is_not_merged_into_the_bases(tmp_path, capsys):
    _, adapters = trained()
    vera.save(tmp_path / "a.safetensors", adapters)
    safetensors.torch.save_file(Classifier(4).state_dict(), tmp_path / "base.safetensors")
    names = [str(tmp_path / name) for name in ("base.safetensors", "a.safetensors")]
    assert cli.main(["vera", "merge", *names, "-o", str(tmp_path / "out.safetensors")]) == 1
    assert "'head.1.weight' is (4, 12), not (3, 12)" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_bad_names_of_parts():
    with raises(ValueError, "[vera.attach] train must match a part of the module, got 'haed'; near: head"):
        vera.attach(Classifier(), targets="all-linear", rank=2, train=["haed"])
    with raises(
        ValueError, "[vera.attach] train must name parts without adapted layers, got 'head.1' in one"
    ):
        vera.attach(Classifier(), targets=["head.1"], rank=2, train=["head"])
    with raises(TypeError, "[vera.attach] train must be a list or tuple, got str"):
        vera.attach(Classifier(), targets=["head.1"], rank=2, train="head")


def bert():
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )
    return transformers.BertForSequenceClassification(config)


def test_a_frozen_fresh_head_is_warned_of():
    with pytest.warns(
        UserWarning, match=r"\[vera.attach\] classifier stays as it is: train=\['classifier'\]"
    ):
        adapters = vera.attach(bert(), targets="all-linear", rank=2)
    assert "classifier" not in adapters.layers
    assert "bert.pooler.dense" in adapters.layers
    assert "classifier" not in vera.attach(bert(), targets="all-linear", rank=2, train=["classifier"]).layers
    assert list(vera.attach(bert(), targets=["classifier"], rank=2).layers) == ["classifier"]


@pytest.mark.parametrize("keep_base", [True, False])
@pytest.mark.parametrize("how", ["adapted", "trained"])
def test_a_tied_output_layer_is_untied_by_a_merge(tmp_path, keep_base, how):
    module = llama()
    if how == "adapted":
        adapters = vera.attach(module, targets=["lm_head", "q_proj"], rank=4)
    else:
        adapters = vera.attach(module, targets=["q_proj"], rank=4, train=["lm_head"])
    with torch.no_grad():
        for i, p in enumerate(adapters.parameters()):
            p.add_(0.3 * normal(*p.shape, seed=i))
        table, truth = module.model.embed_tokens.weight.clone(), module(IDS).logits
        adapters.merge(keep_base=keep_base)
        assert_same_bits(module.model.embed_tokens.weight, table)
        torch.testing.assert_close(module(IDS).logits, truth, rtol=1e-4, atol=1e-5)
        assert module.config.tie_word_embeddings is False
        if keep_base:
            adapters.unmerge()
            assert module.config.tie_word_embeddings is True
            assert how == "trained" or module.lm_head.weight is module.model.embed_tokens.weight
            adapters.merge()
        adapters.detach().save_pretrained(tmp_path)
        again = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(again(IDS).logits, truth, rtol=1e-4, atol=1e-5)
        assert_same_bits(again.model.embed_tokens.weight, table)


def test_layers_that_share_a_weight_are_merged_one_by_one():
    module = Model()
    module.layers[1].q_proj.weight = module.layers[0].q_proj.weight
    _, adapters = attached(model=module, targets=["q_proj"])
    truth = module(normal(4, 12))
    adapters.merge(keep_base=False)
    torch.testing.assert_close(module(normal(4, 12)), truth, rtol=1e-4, atol=1e-4)


def test_a_layer_that_stands_in_two_places_is_adapted_in_both():
    module = Model()
    module.layers[1].q_proj = module.layers[0].q_proj
    module.alias = module.layers[0].q_proj
    base = module(normal(4, 12))
    _, adapters = attached(model=module, targets=["alias"])
    assert module.layers[1].q_proj is module.layers[0].q_proj is module.alias
    assert isinstance(module.alias, vera.VeraLinear)
    assert len(adapters.layers) == 1
    assert_same_bits(adapters.detach()(normal(4, 12)), base)


def test_a_module_that_computes_otherwise_untied_is_refused():
    config = transformers.UMT5Config(
        d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, vocab_size=20, tie_word_embeddings=True
    )
    module = transformers.UMT5ForConditionalGeneration(config)
    adapters = vera.attach(module, targets=["lm_head"], rank=2)
    before = module.shared.weight.clone()
    with pytest.raises(
        ValueError, match=r"'lm_head' must have .* tied to .* computes otherwise without the tie"
    ):
        adapters.merge(keep_base=False)
    assert_same_bits(module.shared.weight, before)
    assert module.config.tie_word_embeddings is True
    assert "lm_head" not in vera.attach(module, targets="all-linear", rank=2, name="other").of("other")


def test_output_layers_of_checkpoints(tmp_path, capsys):
    module = llama()
    adapters = vera.attach(module, targets=["lm_head"], rank=4)
    with torch.no_grad():
        adapters.layers["lm_head"].b["default"].add_(0.5)
        truth = module(IDS).logits
    vera.save(tmp_path / "a.safetensors", adapters)
    llama().save_pretrained(tmp_path / "base")
    names = [str(tmp_path / name) for name in ("base", "a.safetensors")]
    assert cli.main(["vera", "merge", *names, "-o", str(tmp_path / "out")]) == 1
    assert "'lm_head' is not there: tied to the input embedding" in capsys.readouterr().err
    file = tmp_path / "base" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    assert cli.main(["vera", "merge", *names, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert again.config.tie_word_embeddings is False
    torch.testing.assert_close(again(IDS).logits, truth, rtol=1e-4, atol=1e-5)
    assert_same_bits(again.model.embed_tokens.weight.detach(), weights["model.embed_tokens.weight"])


def test_quantised_checkpoints_are_refused_by_name(tmp_path, capsys):
    _, adapters = attached(targets=["q_proj"])
    vera.save(tmp_path / "a.safetensors", adapters)
    names = [str(tmp_path / name) for name in ("base.safetensors", "a.safetensors")]
    weights = Model().state_dict()
    of = {"U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn}
    for dtype in of:
        packed = weights | {"layers.0.q_proj.weight": weights["layers.0.q_proj.weight"].to(of[dtype])}
        safetensors.torch.save_file(packed, names[0])
        assert cli.main(["vera", "merge", *names, "-o", str(tmp_path / "out")]) == 1
        assert f"weight in {dtype}): merge into the unquantised base" in capsys.readouterr().err
    packed = {key: x for key, x in weights.items() if key != "layers.0.q_proj.weight"}
    packed["layers.0.q_proj.qweight"] = torch.ones(3, 12, dtype=torch.int32)
    safetensors.torch.save_file(packed, names[0])
    assert cli.main(["vera", "merge", *names, "-o", str(tmp_path / "out")]) == 1
    assert "'layers.0.q_proj' is quantised (bias in F32, qweight in I32)" in capsys.readouterr().err


class Packed(torch.Tensor):
    """As torchao's: says a dtype of itself that it does not have."""


def test_weights_that_are_no_plain_tensors_are_refused():
    module = Model()
    module.layers[0].q_proj.weight = nn.Parameter(torch.ones(12, 12).as_subclass(Packed))
    with raises(
        TypeError,
        "[vera.attach] 'layers.0.q_proj' must be unquantised, with a plain tensor as its weight, got Packed",
    ):
        vera.attach(module, targets=["q_proj"], rank=2)


def test_adapters_of_compiled_and_wrapped_modules(tmp_path):
    """The file has the names of the plain module, whatever it was trained in."""
    compiled = torch.compile(Model(), backend="eager")
    _, adapters = attached(model=compiled)
    assert next(iter(adapters.layers)) == "layers.0.q_proj"
    vera.save(tmp_path / "a.safetensors", adapters)
    plain = Model()
    vera.load(tmp_path / "a.safetensors", plain)
    assert_same_bits(plain(normal(4, 12)), compiled(normal(4, 12)))
    wrapped = nn.ModuleDict({"module": Model()})
    loaded = vera.load(tmp_path / "a.safetensors", wrapped)
    assert loaded.layers.keys() == adapters.layers.keys()
    assert_same_bits(wrapped["module"](normal(4, 12)), plain(normal(4, 12)))
    apart = Model()
    apart.layers[0].q_proj = torch.compile(apart.layers[0].q_proj, backend="eager")
    with pytest.raises(
        TypeError, match=r"'layers\.0\.q_proj' must be a plain nn.Linear .*, got OptimizedModule"
    ):
        vera.attach(apart, targets=["q_proj"], rank=2)


PARTS = GOLDEN / "vera" / "parts.safetensors"


def golden_adapters():
    """An adapter and a head whose numbers are their own indices."""
    adapters = vera.attach(Classifier().eval(), targets="all-linear", rank=2, seed=7, train=["head"])
    with torch.no_grad():
        for i, p in enumerate(adapters.parameters()):
            p.copy_(torch.arange(p.numel()).view(p.shape) + i)
    return adapters


def test_the_golden_file_of_version_2_is_read_and_written_again(tmp_path):
    vera.save(tmp_path / "made.safetensors", golden_adapters())
    assert (tmp_path / "made.safetensors").read_bytes() == PARTS.read_bytes()
    module = Classifier()
    adapters = vera.load(PARTS, module)
    vera.save(tmp_path / "again.safetensors", adapters)
    assert (tmp_path / "again.safetensors").read_bytes() == PARTS.read_bytes()
    assert adapters.layers["body.2"].b["default"].tolist() == list(range(3, 15))
    assert module.head[1].bias.tolist() == [7, 8, 9]
