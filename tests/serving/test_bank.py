"""Hot swap: a model's weights written into a live module."""

import contextlib
import copy
import threading

import pytest
import torch
from serving import NAMES, Toy, family, state_of
from tensors import assert_same_bits, raises

from pydelta import save_checkpoint
from pydelta.superposition.reading.bucket_reader import BucketReader


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def toy(request):
    torch.manual_seed(0)
    return Toy().to(request.param).eval()


def assert_same_state(module, other):
    a, b = module.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert_same_bits(a[name].float(), b[name].float())


@pytest.mark.parametrize(
    "options", [{}, {"transform": "hadamard"}, {"shuffle_layers": True, "dtype": "bf16"}]
)
@pytest.mark.parametrize("resident", [None, True])
def test_activate_gives_the_bits_of_retrieve(tmp_path, toy, resident, options):
    store, models = family(tmp_path, toy, weights={"b": 2.0}, lam=0.5, **options)
    live = copy.deepcopy(toy)
    bank = store.attach(live, resident=resident)
    places = [x.data_ptr() for x in live.parameters()]
    for name in ("a", "b", "c", "a", "a", "c", "b"):
        bank.activate(name)
        assert bank.active == name
        assert_same_state(live, models[name])
    assert [x.data_ptr() for x in live.parameters()] == places
    assert live.head.weight is live.embed.weight


@pytest.mark.parametrize("options", [{}, {"bits": 1}])
def test_what_models_share_is_mapped_once(tmp_path, toy, monkeypatch, options):
    store, _ = family(tmp_path, toy, **options)
    bank, mapped, tensor = store.attach(toy), [], BucketReader.tensor
    monkeypatch.setattr(
        BucketReader, "tensor", lambda self, place: mapped.append(place) or tensor(self, place)
    )
    for name in ("a", "b", "c"):
        bank.activate(name)
    assert mapped
    assert len(mapped) == len(set(mapped))


def test_use_restores_what_was_there(tmp_path, toy):
    store, models = family(tmp_path, toy)
    live = copy.deepcopy(toy)
    with torch.no_grad():
        live.norm.weight += 1
    before = copy.deepcopy(live)
    bank = store.attach(live)
    with bank.use("a") as module:
        assert module is live
        assert_same_state(live, models["a"])
        with contextlib.suppress(KeyError), bank.use("b"):
            assert_same_state(live, models["b"])
            raise KeyError
        assert_same_state(live, models["a"])
    assert_same_state(live, before)
    assert bank.active is None
    bank.activate("c")
    with bank.use("b"):
        pass
    assert_same_state(live, models["c"])
    with torch.no_grad():
        live.norm.weight += 1
    assert bank.active is None
    changed = copy.deepcopy(live)
    with bank.use("b"):
        pass
    assert_same_state(live, changed)


@pytest.mark.parametrize("prefix", [None, "given"])
def test_prefixes(tmp_path, prefix):
    toy = Toy().eval()
    store, models = family(tmp_path, toy)
    wrapped = torch.nn.ModuleDict({"model": copy.deepcopy(toy)})
    bank = store.attach(wrapped, prefix="model." if prefix else None)
    bank.activate("b")
    assert_same_state(wrapped["model"], models["b"])
    outer, outer_models = family(tmp_path / "outer", wrapped)
    inner = copy.deepcopy(toy)
    outer.attach(inner, prefix="-model." if prefix else None).activate("c")
    assert_same_state(inner, outer_models["c"]["model"])


def test_only_what_the_store_holds_is_written(tmp_path):
    toy = Toy().eval()
    store, _ = family(tmp_path, toy)
    larger = torch.nn.ModuleDict({"model": copy.deepcopy(toy), "score": torch.nn.Linear(20, 2)})
    score = larger["score"].weight.clone()
    store.attach(larger).activate("a")
    assert_same_bits(larger["score"].weight, score)


def test_threads_with_banks_of_their_own(tmp_path):
    """Eight threads that activate and serve give what one thread gives."""
    toy = Toy().eval()
    store, models = family(tmp_path, toy)
    ids = torch.arange(15).view(3, 5)
    banks = [store.attach(copy.deepcopy(toy)) for _ in range(8)]
    served = store.attach(copy.deepcopy(toy))
    served.serve()
    with torch.no_grad(), served.models(list(NAMES)):
        mixed = served.module(ids)[0]
    problems = []

    def work(bank, turn):
        try:
            for step in range(6):
                name = NAMES[(turn + step) % 3]
                bank.activate(name)
                assert_same_state(bank.module, models[name])
            bank.serve()
            with torch.no_grad(), bank.models(list(NAMES)):
                for _ in range(3):
                    assert_same_bits(bank.module(ids)[0], mixed)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(bank, i)) for i, bank in enumerate(banks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]


def test_what_does_not_fit(tmp_path):
    toy = Toy().eval()
    store, _ = family(tmp_path, toy)
    rule = "[attach] the module must hold the store's tensors: "
    lacking = copy.deepcopy(toy)
    del lacking.conv
    with raises(ValueError, rule + "it lacks 'conv.weight'; it lacks 'conv.bias'"):
        store.attach(lacking)
    with pytest.raises(ValueError, match=r"'embed\.weight' has shape \[20, 16\], in the store \[20, 32\]"):
        store.attach(Toy(16))
    with pytest.raises(ValueError, match=r"'conv\.bias' is torch\.bfloat16, in the store torch\.float32"):
        store.attach(copy.deepcopy(toy).bfloat16())
    with pytest.raises(ValueError, match=r"is no dense tensor with values"):
        store.attach(copy.deepcopy(toy).to("meta"))
    split = copy.deepcopy(toy)
    split.conv = split.conv.to("meta")
    with pytest.raises(ValueError, match="its tensors lie on cpu, meta"):
        store.attach(split)
    with raises(TypeError, "[attach] module must be a torch.nn.Module, got dict"):
        store.attach({})
    untied, _ = family(tmp_path / "untied", Toy(tied=False))
    with pytest.raises(ValueError, match=r"'embed\.weight' and 'head\.weight' are one tensor, in the s"):
        untied.attach(toy)


def test_an_unknown_model_leaves_the_weights(tmp_path):
    toy = Toy().eval()
    store, models = family(tmp_path, toy)
    live = copy.deepcopy(toy)
    bank = store.attach(live)
    bank.activate("a")
    for call in (bank.activate, lambda name: bank.use(name).__enter__()):
        with raises(ValueError, f"{store.path}: holds no model 'z'; it holds a, b, c"):
            call("z")
    assert_same_state(live, models["a"])


def test_another_base(tmp_path):
    toy = Toy().eval()
    store, _ = family(tmp_path, toy)
    other = state_of(toy)
    other["norm.weight"] = other["norm.weight"] + 1
    save_checkpoint(other, tmp_path / "other")
    with pytest.raises(ValueError, match=r"not the base of .*: tensor 'norm\.weight' differs"):
        store.attach(toy, base=tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        store.attach(toy, base=tmp_path / "nowhere")
