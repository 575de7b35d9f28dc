"""Which live tensors a store's tensors are, where names and forms differ."""

import copy
import types

import pytest
import torch
from serving import family
from tensors import assert_same_bits, raises

from pydelta import Superposition, hf, save_checkpoint

transformers = pytest.importorskip("transformers", minversion="5")

RULE = "[attach] the module must hold the store's tensors: "


def net(name="layers"):
    torch.manual_seed(0)
    inner = torch.nn.ModuleDict(
        {name: torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=False) for _ in range(2))}
    )
    return torch.nn.ModuleDict({"body": inner, "head": torch.nn.Linear(4, 2, bias=False)}).eval()


def test_rename_and_the_nearest_renaming(tmp_path):
    store, models = family(tmp_path, net())
    live = net("blocks")
    message = (
        RULE + "it lacks 'body.layers.0.weight'; it lacks 'body.layers.1.weight' "
        "(rename={'body.layers.': 'body.blocks.'} would meet 2 of the 2 that it lacks)"
    )
    with raises(ValueError, message):
        store.attach(live)
    store.attach(live, rename={"body.layers.": "body.blocks."}).activate("b")
    for mine, truth in zip(live.parameters(), models["b"].parameters(), strict=True):
        assert_same_bits(mine, truth)


class Subclass(torch.Tensor):
    """Keeps its values elsewhere, as quantised weights do."""

    @staticmethod
    def __new__(cls, x):
        return torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return cls(args[0])


def test_subclasses_are_refused_by_name_and_type(tmp_path):
    store, _ = family(tmp_path, net())
    live = net()
    live["head"].weight = torch.nn.Parameter(Subclass(live["head"].weight.data), requires_grad=False)
    with raises(ValueError, f"{RULE}'head.weight' is a {__name__}.Subclass, no plain tensor"):
        store.attach(live)


def test_a_compiler_that_freezes_weights_is_refused(tmp_path):
    import torch._inductor.config as config

    store, _ = family(tmp_path, net())
    message = (
        "[attach] torch._inductor.config.freezing must be off, for compiled code would keep the base, "
        "got True"
    )
    with config.patch(freezing=True), raises(ValueError, message):
        store.attach(net())


SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def qwen():
    """Experts, one tensor each in the file and packed in the module."""
    options = {"vocab_size": 20, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 12}
    config = transformers.Qwen3MoeConfig(
        **SIZES, **options, moe_intermediate_size=8, num_experts_per_tok=2, decoder_sparse_step=1
    )
    return transformers.Qwen3MoeForCausalLM(config)


def vit():
    config = transformers.ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3)
    return transformers.ViTForImageClassification(config)


def neox():
    options = {"vocab_size": 20, "max_position_embeddings": 16, "tie_word_embeddings": False}
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES, **options))


def tuned(folder, make):
    """A base and two fine-tunes as transformers saves them, and their store."""
    torch.manual_seed(0)
    base = make().eval()
    for name in ("base", "a", "b"):
        model = copy.deepcopy(base)
        if name != "base":
            for x in model.parameters():
                x.data += 0.1 * torch.randn(x.shape)
        model.save_pretrained(folder / name)
    paths = {name: folder / name for name in "ab"}
    store = Superposition.create(folder / "base", paths, folder / "store", buckets=2)
    plain = {name: type(base).from_pretrained(path).eval() for name, path in paths.items()}
    return base, store, plain


@pytest.mark.parametrize("make", [qwen, vit, neox])
def test_names_of_transformers(tmp_path, make):
    """More than nine experts: in the order of their numbers."""
    base, store, plain = tuned(tmp_path, make)
    live = copy.deepcopy(base)
    before = [x.data_ptr() for x in live.parameters()]
    bank = store.attach(live)
    for name in ("a", "b"):
        bank.activate(name)
        truth = plain[name].state_dict()
        for path, x in live.state_dict().items():
            torch.testing.assert_close(x, truth[path], rtol=1e-6, atol=1e-6)
    assert [x.data_ptr() for x in live.parameters()] == before


def test_what_transformers_computes_on_loading_is_computed_again(tmp_path):
    """A converter that is no packing: halves of a matrix change places."""
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import Chunk, WeightConverter

    class Split(transformers.PreTrainedModel):
        config_class = transformers.BertConfig
        base_model_prefix = "split"

        def __init__(self, config):
            super().__init__(config)
            self.up, self.gate = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)

    converter = WeightConverter("fused.weight", ["up.weight", "gate.weight"], [Chunk(dim=0)])
    register_checkpoint_conversion_mapping("Split", [converter], overwrite=True)
    base, own = torch.randn(8, 4), torch.randn(8, 4)
    save_checkpoint({"fused.weight": base}, tmp_path / "base")
    save_checkpoint({"fused.weight": own}, tmp_path / "a")
    live = Split(transformers.BertConfig()).eval()
    live.is_custom_code = types.MethodType(lambda self: False, live)
    store = Superposition.create(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "store")
    bank = store.attach(live)
    bank.activate("a")
    truth = store.retrieve("a")["fused.weight"]
    assert_same_bits(torch.cat([live.up.weight.data, live.gate.weight.data]), truth)
    with bank.use("a"):
        pass
    assert bank.active == "a"


def bert(labels=2):
    config = transformers.BertConfig(**SIZES, vocab_size=20, max_position_embeddings=16, num_labels=labels)
    torch.manual_seed(labels)
    return transformers.BertForSequenceClassification(config).eval()


def test_models_with_heads_of_their_own(tmp_path):
    """hf.load gives the model with its head and its config; a module of the base's cannot hold it."""
    bert(2).save_pretrained(tmp_path / "base")
    wide = bert(3)
    wide.save_pretrained(tmp_path / "wide")
    narrow = bert(2)
    narrow.bert.pooler.dense.weight.data += 0.1
    narrow.save_pretrained(tmp_path / "narrow")
    paths = {name: tmp_path / name for name in ("wide", "narrow")}
    store = Superposition.create(tmp_path / "base", paths, tmp_path / "store", buckets=2)
    model, _ = hf.load(store, "wide")
    ids = torch.arange(8).view(2, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, wide(ids).logits, rtol=1e-4, atol=1e-5)
    assert model.config.num_labels == 3
    bank = store.attach(bert(2))
    message = (
        "[activate] model 'wide' must have the base's tensors, got its own 'classifier.bias' (2 in all): "
        "pydelta.hf.load gives it as a model of its own"
    )
    with raises(ValueError, message):
        bank.activate("wide")
    bank.serve()
    with raises(ValueError, message.replace("[activate]", "[models]")), bank.models(["wide", "narrow"]):
        pass
    with torch.no_grad(), bank.models(["narrow", "narrow"]):
        torch.testing.assert_close(bank.module(ids).logits, narrow(ids).logits, rtol=1e-4, atol=1e-5)


def test_load_keeps_the_models_small_files(tmp_path):
    base = neox()
    base.save_pretrained(tmp_path / "base")
    base.generation_config.max_new_tokens = 7
    base.save_pretrained(tmp_path / "a")
    before = sorted(path.name for path in (tmp_path / "base").iterdir())
    store = Superposition.create(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "store")
    model, _ = hf.load(store, "a")
    assert model.generation_config.max_new_tokens == 7
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == before
    assert model(torch.arange(4)[None]).logits.shape == (1, 4, 20)
