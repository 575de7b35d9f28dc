"""VeRA on modules: attach, train, switch, mix, merge, unmerge, detach, and what is refused."""

import copy

import pytest
import torch
from tensors import assert_same_bits, normal, raises
from torch import nn
from vera_models import TARGETS, Model, attached

import pydelta
from pydelta import vera


@pytest.fixture(autouse=True)
def _nothing_kept():
    vera.forget()


def test_attaching_changes_nothing_and_trains_two_vectors_a_layer():
    plain, x = Model(), normal(4, 12)
    model = Model()
    adapters = vera.attach(model, targets=TARGETS, rank=5)
    assert_same_bits(model(x), model(x))
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-6)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(trained) == sorted(
        f"layers.{i}.{layer}.{part}.default" for i in range(3) for layer in TARGETS for part in "db"
    )
    assert list(model.buffers()) == []
    assert [p.dtype for p in adapters.parameters()] == [torch.float32] * 18
    assert all(bool((layer.d["default"] == 0.1).all()) for layer in adapters.layers.values())
    assert not any(layer.b["default"].any() for layer in adapters.layers.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_merged_equals_unmerged_and_unmerging_gives_the_base_back(dtype):
    model, adapters = attached(model=Model(dtype))
    x = normal(4, 12, dtype=dtype)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        y, base = model(x), Model(dtype)(x)
        adapters.merge()
        merged = model(x)
    limit = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float64: 1e-10}[dtype]
    assert float((merged - y).norm()) < limit * float((y - base).norm())
    assert float((y - base).norm()) > 0.03 * float(base.norm())
    adapters.unmerge()
    for name, x_before in before.items():
        assert_same_bits(model.state_dict()[name], x_before)


def test_merging_in_place_and_detaching_leaves_a_plain_fine_tune():
    model, adapters = attached()
    x = normal(4, 12)
    y = model(x)
    adapters.merge(keep_base=False)
    with raises(RuntimeError, "[VeraLinear] the base must have been kept to unmerge, got keep_base=False"):
        adapters.unmerge()
    plain = adapters.detach()
    assert plain is model
    assert model.state_dict().keys() == Model().state_dict().keys()
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-5)


def test_detaching_gives_the_base_back():
    model, adapters = attached()
    adapters.detach()
    x = normal(4, 12)
    assert_same_bits(model(x), Model()(x))
    assert [type(part) for part in model.modules()] == [type(part) for part in Model().modules()]


def test_merging_twice_and_unmerging_what_is_not_merged():
    _, adapters = attached()
    with raises(RuntimeError, "[vera] an adapter must be merged before it is unmerged, got none"):
        adapters.unmerge()
    adapters.merge()
    message = "no adapter may be merged yet: unmerge it first, got 'default' in 'layers.0.q_proj'"
    others = (
        adapters.merge,
        lambda: adapters.use(None),
        lambda: adapters.mixed(torch.tensor([0])).__enter__(),
        lambda: vera.attach(adapters.module, targets=TARGETS, rank=5, name="b"),
    )
    for other in others:
        with raises(RuntimeError, f"[vera] {message}"):
            other()
    assert adapters.names == ("default",)
    with raises(RuntimeError, "[VeraLinear] one adapter can be merged at a time, got 'default' there"):
        adapters.layers["layers.0.q_proj"].merge("default")


def test_several_adapters_are_switched():
    model, adapters = attached("a")
    attached("b", model=model, targets=["q_proj"])
    adapters = vera.Adapters(model)
    x, found = normal(4, 12), {}
    for name in ("a", "b", None):
        adapters.use(name)
        found[name] = model(x)
    alone = attached("b", targets=["q_proj"])[0]
    torch.testing.assert_close(found["b"], alone(x), rtol=1e-6, atol=1e-6)
    assert_same_bits(found[None], Model()(x))
    assert not torch.equal(found["a"], found["b"])
    assert adapters.names == ("a", "b")


@pytest.mark.parametrize("ranks", [(5, 5, 5), (5, 2, 9)])
def test_a_mixed_batch_is_its_rows(ranks):
    """Also of several ranks: a smaller matrix is a part of a larger one."""
    model, _ = attached("a", rank=ranks[0])
    for name, rank in zip("bc", ranks[1:], strict=True):
        attached(name, model=model, rank=rank)
    adapters = vera.Adapters(model)
    x, index = normal(6, 3, 12), torch.tensor([2, 0, 1, 0, 2, 2])
    with adapters.mixed(index):
        y = model(x)
    for row, k in enumerate(index.tolist()):
        adapters.use("abc"[k])
        torch.testing.assert_close(y[row], model(x[row]), rtol=1e-4, atol=1e-5)
    with adapters.mixed(index[:, None].expand(6, 3), names=["a", "b", "c"]):
        torch.testing.assert_close(model(x), y)


def test_a_mixed_batch_trains_every_adapter_in_it():
    model, adapters = attached("a")
    attached("b", model=model)
    attached("c", model=model)
    adapters = vera.Adapters(model)
    with adapters.mixed(torch.tensor([0, 2, 2, 0])):
        model(normal(4, 12)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for name in "ac" for p in adapters.parameters(name))
    assert not any(p.grad.abs().sum() for p in adapters.parameters("b"))


def test_other_seeds_do_not_mix():
    model, adapters = attached("a")
    attached("b", model=model, seed=7)
    adapters = vera.Adapters(model)
    message = (
        "mixed adapters must share their matrices, that is their seed, for a batch takes one product with "
        "them; got seed 42 of 'a' and seed 7 of 'b'"
    )
    with raises(ValueError, f"[vera] {message}"), adapters.mixed(torch.tensor([0, 1])):
        pass


def test_adapters_of_other_layers_do_not_mix():
    model, adapters = attached("a")
    attached("b", model=model, targets="q_proj")
    message = "mixed adapters must be on the same layers, got 9 of 'a' and 3 of 'b'"
    with raises(ValueError, f"[vera] {message}"), vera.Adapters(model).mixed(torch.tensor([0, 1])):
        pass
    assert adapters.layers


def test_both_ways_to_the_matrices():
    model, adapters = attached()
    x = normal(4, 12)
    kept = model(x)
    assert vera.kept_bytes() == 4 * (5 * 20 + 20 * 5)  # the widest and the tallest layer's
    vera.forget()
    adapters.set_matrices("regenerated")
    torch.testing.assert_close(model(x), kept, rtol=1e-5, atol=1e-6)
    assert vera.kept_bytes() == 0
    with raises(ValueError, "[vera] matrices must be one of cached, regenerated, got 'none'"):
        adapters.set_matrices("none")


def test_an_index_for_each_row_or_sequence():
    model, adapters = attached("a")
    message = "[VeraLinear] index must be of shape (4, 2) or (4,), got (3,)"
    with adapters.mixed(torch.zeros(3, dtype=torch.int64)), raises(ValueError, message):
        model(normal(4, 2, 12))
    model(normal(4, 2, 12))  # the block has ended


def test_hooks_of_the_base_still_run():
    model, _ = attached()
    y, seen = model(normal(4, 12)), []
    model.layers[0].q_proj.base.register_forward_hook(lambda *args: seen.append(1))
    torch.testing.assert_close(model(normal(4, 12)), y, rtol=1e-5, atol=1e-6)
    assert seen == [1]


def test_the_state_holds_vectors_and_seed_alone():
    model, adapters = attached(seed=2**64 - 1)
    state = adapters.state_dict()
    assert state.keys() == {"seed"} | {f"layers.{i}.{t}.{v}" for i in range(3) for t in TARGETS for v in "db"}
    assert int(state["seed"]) % 2**64 == 2**64 - 1
    other, mine = attached("mine", seed=2**64 - 1)
    mine.load_state_dict({name: x.clone() for name, x in state.items()}, "mine")
    x = normal(4, 12)
    assert_same_bits(other(x), model(x))
    with raises(ValueError, "[vera] state must fit the adapter, got other names or shapes: layers.0.out.b"):
        mine.load_state_dict({name: x for name, x in state.items() if name != "layers.0.out.b"}, "mine")


def test_the_same_seed_gives_the_same_layers_for_any_targets():
    """An adapter of one set of layers is a part of that of a larger set."""
    x = normal(4, 12)
    few, some = attached(targets=["q_proj"])
    many, all_of_them = attached(targets="all-linear")
    for path, layer in some.layers.items():
        other = all_of_them.layers[path]
        with torch.no_grad():
            other.d["default"].copy_(layer.d["default"])
            other.b["default"].copy_(layer.b["default"])
        assert_same_bits(other(x), layer(x))
    assert few is not many


def test_compiled_module():
    model, _ = attached()
    x = normal(4, 12)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_an_optimizer_step_after_unmerging():
    """The vectors are the same parameters all along."""
    model, adapters = attached()
    optimizer = torch.optim.SGD(adapters.parameters(), lr=0.1)
    adapters.merge()
    adapters.unmerge()
    model(normal(4, 12)).square().sum().backward()
    before = [p.detach().clone() for p in adapters.parameters()]
    optimizer.step()
    assert not any(map(torch.equal, adapters.parameters(), before))


class Quantised(nn.Module):
    in_features, out_features, weight = 4, 4, torch.zeros(4, 4, dtype=torch.int8)


BAD = [
    ({"rank": 0}, ValueError, "[vera.attach] rank must be at least 1, got 0"),
    ({"rank": -3}, ValueError, "[vera.attach] rank must be at least 1, got -3"),
    ({"rank": 2.0}, TypeError, "[vera.attach] rank must be an int, got float"),
    ({"dropout": 1.0}, ValueError, "[vera.attach] dropout must lie in [0, 1), got 1.0"),
    ({"seed": -1}, ValueError, "[Key] seed must lie in [0, 2**64), got -1"),
    ({"name": "a.b"}, ValueError, "[vera.attach] name must be one word without dots, got 'a.b'"),
    (
        {"targets": "q_prj"},
        ValueError,
        "[vera.attach] targets must match a linear layer, got 'q_prj'; near: q_proj, v_proj",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_attachments_leave_the_module_alone(options, error, message):
    model = Model()
    with raises(error, message):
        vera.attach(model, **{"targets": TARGETS, "rank": 5} | options)
    assert [type(part) for part in model.modules()] == [type(part) for part in Model().modules()]
    assert all(p.requires_grad for p in model.parameters())


def test_a_name_that_is_taken():
    model, _ = attached()
    message = "[vera.attach] name must be new, got 'default', which 'layers.0.q_proj' has"
    with raises(ValueError, message):
        vera.attach(model, targets=TARGETS, rank=5)


def test_an_adapter_that_is_not_there():
    _, adapters = attached("a")
    with raises(ValueError, "[vera] adapter must be one of a, got 'b'"):
        adapters.use("b")


def test_quantised_bases_are_refused():
    model = Model()
    model.layers[1].q_proj = Quantised()
    message = (
        "'layers.1.q_proj' must be a plain nn.Linear or Conv1D (quantised layers have no weight to merge "
        "into), got Quantised"
    )
    with raises(TypeError, f"[vera.attach] {message}"):
        vera.attach(model, targets=["q_proj"], rank=5)
    narrow = nn.Linear(4, 4)
    narrow.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    message = "base must be unquantised, with a weight of 16 bits at least, got torch.int8"
    with raises(TypeError, f"[VeraLinear] {message}"):
        vera.VeraLinear(narrow)
    with pytest.raises(TypeError, match=r"must be a plain nn\.Linear"):
        vera.attach(nn.MultiheadAttention(8, 2), targets=["out_proj"], rank=2)


def test_merged_weights_are_those_of_the_op():
    _, adapters = attached()
    layer = adapters.layers["layers.0.out"]
    d, b = layer.d["default"], layer.b["default"]
    expected = pydelta.vera_merge(layer.weight.detach(), d.detach(), b.detach(), pydelta.key(42, "vera"))
    adapters.merge()
    torch.testing.assert_close(layer.weight, expected)
