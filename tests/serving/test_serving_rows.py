"""Mixed batches in modules whose layers do not all get the batch's rows: right, or refused by name."""

import copy

import pytest
import torch
from serving import assert_rows_are_models, family
from tensors import assert_same_bits, raises
from tolerance import UNIT

TOLERANCE = 2.0**7 * UNIT[torch.float32]
NAMES = ["a", "b", "a"]


class Body(torch.nn.Module):
    """Two layers that go by rows, around what a test is about."""

    def __init__(self, inner):
        super().__init__()
        self.before, self.inner, self.after = torch.nn.Linear(8, 8), inner, torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


class Positions(torch.nn.Module):
    """An embedding that is called with positions, of which there may be as many as rows."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(16, 8)

    def forward(self, x):
        return x + self.table(torch.arange(x.shape[1]))


class TimeFirst(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x.transpose(0, 1)).transpose(0, 1)


class ReadsWithoutCall(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.linear.weight, self.linear.bias)


class CallsAndReads(ReadsWithoutCall):
    """As output layers do that borrow the embedding's matrix."""

    def forward(self, x):
        return self.linear(x) @ self.linear.weight


class Flattens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x.reshape(-1, 8)).view_as(x)


class Experts(torch.nn.Module):
    """Each token goes to one expert: which are called, and with how many tokens, depends on the tokens."""

    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(8, 3, bias=False)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        flat = x.reshape(-1, 8)
        choice = self.gate(flat).argmax(-1)
        y = torch.zeros_like(flat)
        for k, expert in enumerate(self.experts):
            if (choice == k).any():
                y[choice == k] = expert(flat[choice == k])
        return y.view_as(x)


class Own(torch.nn.Module):
    """A parameter of its own, and a table that is no row's."""

    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Parameter(torch.ones(8))

    def forward(self, x, table):
        return x * self.gate + table


class GivesTable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.own = Own()

    def forward(self, x):
        return self.own(x, torch.arange(8.0 * x.shape[1]).view(-1, 8))


def made(folder, module):
    torch.manual_seed(0)
    module = module.eval()
    store, models = family(folder, module, ["a", "b"], size=0.3, buckets=2)
    bank = store.attach(copy.deepcopy(module))
    bank.serve()
    return models, bank


@pytest.mark.parametrize(
    "inner", [Positions, TimeFirst, ReadsWithoutCall, CallsAndReads, Flattens, Experts, GivesTable]
)
def test_rows_have_their_models_weights(tmp_path, inner):
    """Also where there are as many tokens as rows, or one."""
    torch.manual_seed(0)
    models, bank = made(tmp_path, Body(inner()))
    before = {name: x.clone() for name, x in bank.module.state_dict().items()}
    for length in (5, 3, 1, 4):
        x = torch.randn(3, length, 8)
        assert_rows_are_models(bank.module, models, bank, x, NAMES, TOLERANCE)
    for name, x in bank.module.state_dict().items():
        assert_same_bits(x, before[name])


def test_only_what_does_not_go_by_rows_runs_once_a_model(tmp_path):
    _, bank = made(tmp_path, Body(Positions()))
    calls = {"before": 0, "inner": 0}
    for name in calls:
        module = getattr(bank.module, name)
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    x = torch.randn(3, 5, 8)
    with torch.no_grad(), bank.models(NAMES):
        bank.module(x)
        calls.update(before=0, inner=0)
        bank.module(x)
    assert calls == {"before": 1, "inner": 1}
    (plan,) = bank._router.plans.values()
    assert plan.mixing == {"before", "after"}
    assert set(plan.units) == {"inner"}


class Cache:
    def __init__(self):
        self.sums = None


class Recurrent(torch.nn.Module):
    """A layer that runs once a model, and writes to a cache that it is given."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(8))
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x, cache):
        x = self.linear(x * self.scale)
        cache.sums = x if cache.sums is None else cache.sums + x
        return {"y": cache.sums, "cache": cache, "nothing": None}


def test_caches_are_split_and_joined(tmp_path):
    models, bank = made(tmp_path, Recurrent())
    cache, own = Cache(), [Cache() for _ in NAMES]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.randn(3, 8, generator=generator)
        with torch.no_grad(), bank.models(NAMES):
            result = bank.module(x, cache)
        assert result["cache"] is cache
        assert result["nothing"] is None
        with torch.no_grad():
            alone = [models[n](x[i : i + 1], own[i])["y"] for i, n in enumerate(NAMES)]
        torch.testing.assert_close(result["y"], torch.cat(alone), rtol=1e-5, atol=1e-5)
        assert_same_bits(cache.sums, result["y"])


class Remembers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.last = torch.nn.Linear(8, 8), None

    def forward(self, x):
        self.last = self.linear(x)
        return self.last


def test_modules_that_keep_tensors_are_refused(tmp_path):
    _, bank = made(tmp_path, torch.nn.Sequential(Remembers()))
    message = (
        "[models] '0' must keep nothing from one call to the next, got a tensor that a forward left there: "
        "use activate()"
    )
    with raises(ValueError, message), bank.models(NAMES):
        bank.module(torch.randn(3, 8))


def test_arguments_without_a_row_for_each_name_are_refused(tmp_path):
    _, bank = made(tmp_path, torch.nn.Sequential(GivesTable()))
    own = bank.module[0].own
    message = (
        "[models] every argument must have one row for each row of the batch (3), got 'table' of shape "
        "(5, 8): use activate()"
    )
    with raises(ValueError, message), bank.models(NAMES):
        own(torch.randn(3, 5, 8), table=torch.zeros(5, 8))


def test_names_stand_for_runs_of_rows(tmp_path):
    """As ``generate`` repeats prompts for beams."""
    _, bank = made(tmp_path, Body(Positions()))
    x = torch.randn(6, 5, 8)
    with torch.no_grad():
        with bank.models(["a", "b"]):
            short = bank.module(x)
        with bank.models(["a", "a", "a", "b", "b", "b"]):
            assert_same_bits(short, bank.module(x))


@pytest.mark.parametrize("buckets", [1, 2])
def test_autocast(tmp_path, buckets):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)).eval()
    store, models = family(tmp_path, module, ["a", "b"], buckets=buckets)
    bank = store.attach(copy.deepcopy(module))
    bank.serve()
    x = torch.randn(3, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with bank.models(NAMES):
            found = bank.module(x)
        truth = torch.cat([models[n](x[i : i + 1]) for i, n in enumerate(NAMES)])
    assert found.dtype == truth.dtype == torch.bfloat16
    torch.testing.assert_close(
        found, truth, rtol=0, atol=2.0**4 * UNIT[torch.bfloat16] * float(truth.abs().max())
    )


def test_forwards_of_instances_and_hooks_run_once(tmp_path):
    """As accelerate puts them around layers."""
    torch.manual_seed(0)
    module = Body(torch.nn.Linear(8, 8)).eval()
    store, models = family(tmp_path, module, ["a", "b"], size=0.3, buckets=2)
    live = copy.deepcopy(module)
    plain, seen = live.inner.forward, []
    live.inner.forward = lambda x: plain(x) + 1
    live.before.register_forward_hook(lambda *_: seen.append(1))
    bank = store.attach(live)
    bank.serve()
    x = torch.randn(3, 8)
    with torch.no_grad(), bank.models(NAMES):
        live(x)
        seen.clear()
        found = live(x)
    assert seen == [1]
    with torch.no_grad():
        rows = enumerate(NAMES)
        truth = [(m := models[n]).after(m.inner(m.before(x[i : i + 1])) + 1) for i, n in rows]
    torch.testing.assert_close(found, torch.cat(truth), rtol=1e-4, atol=1e-4)
    bank.unserve()
    assert live.inner.forward(x[:1]).shape == (1, 8)


def test_modules_that_torch_compiled(tmp_path):
    """Before they were attached, and with graphs from before."""
    torch.manual_seed(0)
    module = Body(Positions()).eval()
    store, models = family(tmp_path, module, ["a", "b"], size=0.3, buckets=2)
    compiled = torch.compile(copy.deepcopy(module), backend="aot_eager")
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        base = compiled(x)
    bank = store.attach(compiled)
    bank.serve()
    for names in (NAMES, ["b", "b", "a"]):
        assert_rows_are_models(compiled, models, bank, x, names, TOLERANCE)
    with torch.no_grad():
        assert_same_bits(compiled(x), base)
    bank.unserve()
    bank.activate("b")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), models["b"](x), rtol=1e-5, atol=1e-5)


class Counts(torch.nn.Module):
    """Adds up what it sees, in a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.register_buffer("sum", torch.zeros(8), persistent=False)

    def forward(self, x):
        self.sum += x.sum((0, 1))
        return self.linear(x) + self.sum


def test_modules_that_write_to_their_buffers_are_refused(tmp_path):
    _, bank = made(tmp_path, torch.nn.Sequential(Counts()))
    with (
        pytest.raises(ValueError, match="'0' must keep nothing from one call to the next"),
        bank.models(NAMES),
    ):
        bank.module(torch.randn(3, 4, 8))


class Sometimes(torch.nn.Module):
    """Calls one layer or another, as the values say: no two calls need be alike."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), layer

    def forward(self, x):
        return self.first(x) if float(x.detach().sum()) > 0 else self.second(x)


@pytest.mark.parametrize("layer", [torch.nn.Linear(8, 8), torch.nn.Conv1d(4, 4, 1)])
def test_a_layer_that_the_first_batch_did_not_call(tmp_path, layer):
    _, bank = made(tmp_path, Sometimes(layer))
    message = (
        "[models] 'second' must be called as in the first batch of this kind, where it was not called: "
        "use activate()"
    )
    with torch.no_grad(), bank.models(NAMES):
        bank.module(torch.ones(3, 4, 8))
        with raises(ValueError, message):
            bank.module(-torch.ones(3, 4, 8))
