"""What a Calibrator collects, that it leaves the model alone, and its file."""

import gc
import weakref

import pytest
import torch
from tensors import FLOATS, HALVES, integers, normal, raises
from torch import nn

from pydelta import load_checkpoint, save_checkpoint
from pydelta.calibration import Calibration, Calibrator, calibrator
from pydelta.checkpoint import Checkpoint
from pydelta.darex import layer_q

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Conv1D(nn.Module):
    """As transformers has it: a linear layer whose weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Network(nn.Module):
    """A linear layer, a Conv1D, and layers that are neither."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.first = nn.Linear(6, 5)
        self.block = nn.Sequential(nn.LayerNorm(5), Conv1D(4, 5))

    def forward(self, x):
        return self.block(torch.relu(self.first(self.embed(x))))


def network(dtype=torch.float32, device="cpu", seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network().to(device, dtype)


def batches():
    """Token numbers: three batches of different shapes, one of them empty."""
    return [
        integers(2, 7, low=0, high=8).long(),
        torch.empty(0, 3).long(),
        integers(11, low=0, high=8, seed=1).long(),
    ]


def linear(*weights):
    """Linear layers of these weights, in a row."""
    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype) for w in weights]
    for layer, w in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(w)
    return nn.Sequential(*layers)


def collected(model, *inputs, **options):
    with Calibrator(model, **options) as found:
        for x in inputs:
            model(x)
    return found.calibration


def hooks(model):
    return [hook for module in model.modules() for hook in module._forward_hooks]


def assert_same(a, b):
    assert a.layers.keys() == b.layers.keys()
    for name, x in a.layers.items():
        y = b.layers[name]
        assert torch.equal(x.column_norm, y.column_norm)
        assert torch.equal(x.mean, y.mean)
        assert (x.rows, x.dim, x.output_norm2) == (y.rows, y.dim, y.output_norm2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_statistics_are_those_of_the_inputs(dtype, device):
    """Against the definitions in fp64, on the inputs that the layers really saw."""
    model, base = network(dtype, device), network(dtype, device, seed=1).state_dict()
    seen = {"first.weight": [], "block.1.weight": []}
    for name, inputs in seen.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        layer.register_forward_pre_hook(lambda _, args, to=inputs: to.append(args[0].double().flatten(0, -2)))
    calibration = collected(model, *(x.to(device) for x in batches()), base=base)
    assert calibration.layers.keys() == seen.keys()
    for (name, inputs), dim in zip(seen.items(), (1, 0), strict=True):
        x, layer = torch.cat(inputs), calibration.layer(name)
        delta = model.state_dict()[name].double() - base[name].double()
        outputs = x @ delta.movedim(dim, 0)
        assert (layer.rows, layer.dim) == (25, dim)
        for found, truth in ((layer.column_norm, x.norm(dim=0)), (layer.mean, x.mean(0))):
            assert (found.dtype, found.device.type) == (torch.float32, "cpu")
            # Sums of 14 and 11 terms in fp32, and one rounding to fp32.
            assert torch.allclose(found.double(), truth.cpu(), rtol=1e-6, atol=1e-6)
        assert layer.output_norm2 == pytest.approx(outputs.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_upcast_before_squaring(dtype):
    """In fp16 the square of 2^10 is Inf, that of 2^-13 zero; bf16 would round 257 to 256."""
    x = torch.tensor([[2.0**10, 2.0**-13, 1.0]] * 257, dtype=dtype)
    layer = collected(linear(normal(2, 3, dtype=dtype)), x).layer("0.weight")
    root = 257**0.5
    assert layer.column_norm.tolist() == pytest.approx([root * 2.0**10, root * 2.0**-13, root], rel=1e-7)
    assert layer.mean.tolist() == [2.0**10, 2.0**-13, 1.0]


def test_many_parts_and_batches_sum_exactly(monkeypatch):
    """Integers, so every sum is exact: parts, batches and one batch of all give the same bits."""
    monkeypatch.setattr(calibrator, "_ROWS", 3)
    monkeypatch.setattr(calibrator, "_PART", 40)
    weight, base = integers(5, 8, seed=1), integers(5, 8, seed=2)
    x, model = integers(50, 8), linear(weight)
    whole = collected(model, x, base={"0.weight": base})
    assert_same(whole, collected(model, x[:20], x[20:].view(3, 10, 8), base={"0.weight": base}))
    layer = whole.layer("0.weight")
    assert layer.output_norm2 == (x @ (weight - base).T).square().sum()
    assert torch.equal(layer.column_norm, x.double().square().sum(0).sqrt().float())
    assert torch.equal(layer.mean, (x.double().sum(0) / 50).float())


def test_a_second_block_adds_to_the_first():
    model, x = linear(integers(3, 4)), integers(6, 4, seed=1)
    found = Calibrator(model)
    for part in (x[:2], x[2:]):
        with found:
            model(part)
    assert_same(found.calibration, collected(model, x))


def test_autocast_does_not_reach_the_statistics():
    model, base = network(), network(seed=1).state_dict()
    x = batches()[0]
    plain = collected(model, x, base=base).layer("first.weight")
    with torch.autocast("cpu", torch.bfloat16):
        mixed = collected(model, x, base=base).layer("first.weight")
    assert torch.equal(mixed.column_norm, plain.column_norm)
    assert mixed.output_norm2 == plain.output_norm2


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_is_left_alone(mode):
    """Same outputs, same mode, no graph and no input kept, no hook left."""
    model, base = network().train(), network(seed=1).state_dict()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    x = batches()[0]
    with mode():
        expected = model(x)
        with Calibrator(model, base=base) as found:
            y = model(x)
            assert len(hooks(model)) == 2
    assert torch.equal(y, expected)
    assert y.requires_grad == expected.requires_grad
    assert model.training
    assert hooks(model) == []
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not found.calibration.layer("first.weight").column_norm.requires_grad


def test_inputs_are_not_kept():
    model, x = linear(normal(3, 4)), normal(6, 4)
    gone = weakref.ref(x)
    with Calibrator(model, base={"0.weight": normal(3, 4, seed=1)}) as found:
        model(x)
        del x
        gc.collect()
        assert gone() is None
    assert found.calibration.layer("0.weight").rows == 6


def test_hooks_go_by_an_exception():
    model = network()
    with pytest.raises(KeyboardInterrupt), Calibrator(model):
        raise KeyboardInterrupt
    assert hooks(model) == []
    with pytest.raises(IndexError), Calibrator(model):
        model(torch.tensor([9]))
    assert hooks(model) == []


def test_a_block_within_a_block():
    model = network()
    with Calibrator(model) as found:
        with raises(RuntimeError, "[Calibrator] a block must end before the next begins"), found:
            pass
        with Calibrator(model) as other:
            model(batches()[0])
    assert_same(found.calibration, other.calibration)


def test_inputs_by_keyword_and_vectors():
    model, x = nn.Linear(4, 3), integers(4)
    with Calibrator(model) as found:
        model(input=x)
        model(x)
    layer = found.calibration.layer("weight")
    assert layer.rows == 2
    assert torch.equal(layer.mean, x)


class Shared(nn.Module):
    """A layer under two names, called twice; and another layer with the same weight."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False)
        self.b, self.tied = self.a, nn.Linear(4, 4, bias=False)
        self.tied.weight = self.a.weight

    def forward(self, x):
        return self.tied(x[:3]), self.a(x[3:5]), self.b(x[5:])


def test_shared_weights_have_one_set_of_statistics():
    model, x, base = Shared(), integers(9, 4), integers(4, 4, seed=1).float()
    found = collected(model, x, base={"tied.weight": base})
    alone = collected(linear(model.a.weight.detach()), x, base={"0.weight": base}).layer("0.weight")
    assert list(found.layers) == ["a.weight", "b.weight", "tied.weight"]
    for layer in found.layers.values():
        assert layer.rows == 9
        assert torch.equal(layer.column_norm, alone.column_norm)
        assert torch.equal(layer.mean, alone.mean)
        assert layer.output_norm2 == pytest.approx(alone.output_norm2, rel=1e-6)


def test_a_convolution_of_the_same_name_is_none():
    class Conv1D(nn.Conv1d):
        pass

    model = nn.Sequential(Conv1D(2, 3, 1), nn.Flatten(), nn.Linear(15, 2))
    assert list(collected(model, normal(4, 2, 5)).layers) == ["2.weight"]


def test_layers_are_chosen_by_pattern():
    model, x = network(), batches()[0]
    assert list(collected(model, x, layers=["first.*"]).layers) == ["first.weight"]
    assert list(collected(model, x, layers=("block.1.weight", "*")).layers) == [
        "first.weight",
        "block.1.weight",
    ]
    message = "[Calibrator] layers must match the model's layers, got 'second.*'"
    with raises(ValueError, message):
        Calibrator(model, layers=["first.weight", "second.*"])


@pytest.mark.parametrize("kind", ["state dict", "file", "folder", "Checkpoint"])
def test_every_kind_of_base(tmp_path, kind):
    model, base = network(), network(seed=1).state_dict()
    path = tmp_path / ("base.safetensors" if kind == "file" else "base")
    save_checkpoint(base, path)
    given = {"state dict": base, "Checkpoint": Checkpoint(path)}.get(kind, str(path))
    assert_same(collected(model, *batches(), base=given), collected(model, *batches(), base=base))


def test_a_base_in_another_dtype():
    weight, base, x = integers(5, 8, seed=1), integers(5, 8, seed=2), integers(9, 8)
    found = collected(linear(weight), x, base={"0.weight": base.bfloat16()}).layer("0.weight")
    assert found.output_norm2 == (x @ (weight - base).T).square().sum()


def test_a_base_that_does_not_fit():
    model = network()
    message = (
        "[Calibrator] base must have the model's layers, got: it lacks first.weight; "
        "block.1.weight has shape (4, 5), in the model (5, 4)"
    )
    with raises(ValueError, message):
        Calibrator(model, base={"block.1.weight": torch.ones(4, 5)})
    model = linear(normal(3, 4))
    with (
        raises(
            TypeError,
            "[Calibrator] the base of 0.weight must be float32, bfloat16, float16 or float64, got int64",
        ),
        Calibrator(model, base={"0.weight": torch.ones(3, 4).long()}),
    ):
        model(normal(2, 4))
    with pytest.raises(FileNotFoundError):
        Calibrator(model, base="no such checkpoint")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_inputs_that_are_not_finite_name_the_layer(value):
    """The first layer that meets one; the sums are as if that batch had not been."""
    model, x = linear(normal(4, 4), torch.full((4, 4), value), normal(4, 4)), normal(3, 4)
    message = "[Calibrator] the input of 2.weight and its squares must be finite, got NaN or Inf"
    with raises(ValueError, message), Calibrator(model) as found:
        model(x)
    assert hooks(model) == []
    with pytest.warns(UserWarning, match=r"layers that saw no data are left out: 2\.weight"):
        assert list(found.calibration.layers) == ["0.weight", "1.weight"]


def test_a_delta_that_is_not_finite_names_the_layer():
    model, base = linear(normal(4, 4)), torch.full((4, 4), float("nan"))
    message = "[Calibrator] the delta's output of 0.weight and its squares must be finite, got NaN or Inf"
    with raises(ValueError, message), Calibrator(model, base={"0.weight": base}) as found:
        model(normal(3, 4))
    with raises(ValueError, "[Calibrator] a layer must see data, got none for 0.weight"):
        _ = found.calibration


def test_layers_without_data_are_left_out_with_a_warning(tmp_path):
    model = network()
    with Calibrator(model) as found:
        model.first(normal(2, model.first.in_features))
    message = r"layers that saw no data are left out: block\.1\.weight"
    with pytest.warns(UserWarning, match=message):
        found.save(tmp_path / "x.safetensors")
    seen = Calibrator.load(tmp_path / "x.safetensors").layers
    assert list(seen) == ["first.weight"]


def test_no_layer_with_data_is_an_error(tmp_path):
    with raises(ValueError, "[Calibrator] a layer must see data, got none for first.weight, block.1.weight"):
        Calibrator(network()).save(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_calibrated():
    with raises(ValueError, "[Calibrator] model must have a Linear or Conv1D layer, got none"):
        Calibrator(nn.Embedding(3, 4))
    with raises(TypeError, "[Calibrator] model must be a torch.nn.Module, got dict"):
        Calibrator({})
    with raises(TypeError, "[Calibrator] layers must be a list or tuple, got str"):
        Calibrator(network(), layers="first.weight")
    packed = nn.Linear(4, 3)
    packed.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)
    with raises(TypeError, "[Calibrator] weight must be float32, bfloat16, float16 or float64, got int8"):
        Calibrator(packed)


@pytest.mark.parametrize("with_base", [False, True])
def test_file_round_trip(tmp_path, with_base):
    model, base = network(), network(seed=1).state_dict() if with_base else None
    with Calibrator(model, base=base) as found:
        for x in batches():
            model(x)
    path = tmp_path / "c.safetensors"
    found.save(path)
    loaded = Calibrator.load(path)
    assert isinstance(loaded, Calibration)
    assert_same(
        loaded,
        Calibration({name: found.calibration.layers[name] for name in sorted(found.calibration.layers)}),
    )
    loaded.save(tmp_path / "again.safetensors")
    assert_same(Calibration.load(tmp_path / "again.safetensors"), loaded)
    with raises(ValueError, f"{path}: already exists; --force (force=True) replaces it"):
        found.save(path)
    before = path.read_bytes()
    found.save(path, force=True)
    assert path.read_bytes() == before


def test_what_the_file_holds(tmp_path):
    """As the documentation of :class:`Calibration` says."""
    model = linear(integers(3, 2))
    with Calibrator(model, base={"0.weight": torch.zeros(3, 2)}) as found:
        model(torch.tensor([[3.0, 1.0], [4.0, -1.0]]))
    found.save(tmp_path / "c.safetensors")
    tensors = load_checkpoint(tmp_path / "c.safetensors")
    assert tensors["0.weight:column_norm"].tolist() == [5.0, pytest.approx(2**0.5)]
    assert tensors["0.weight:mean"].tolist() == [3.5, 0.0]
    output2 = (model[0].weight.detach() @ torch.tensor([[3.0, 4.0], [1.0, -1.0]])).square().sum().item()
    scalars = {"rows": (torch.int64, 2), "dim": (torch.int64, 1), "output_norm2": (torch.float64, output2)}
    assert {
        name.removeprefix("0.weight:"): (x.dtype, x.item()) for name, x in tensors.items() if x.dim() == 0
    } == scalars
    header = Checkpoint(tmp_path / "c.safetensors").shards["c.safetensors"]
    assert header.metadata == {"format": "pydelta-calibration", "version": "1"}


def test_a_calibration_serves_layer_q(tmp_path):
    """From the hooks through the file to a q, for (out, in) and (in, out) weights alike."""
    model, base = network(), network(seed=1).state_dict()
    with Calibrator(model, base=base) as found:
        model(batches()[0])
    found.save(tmp_path / "c.safetensors")
    calibration = Calibrator.load(tmp_path / "c.safetensors")
    for name in calibration.layers:
        delta = model.state_dict()[name] - base[name]
        for options in ({"method": "mse"}, {"eta": 0.3}):
            q = layer_q(name, delta, keep=0.1, calibration=calibration, **options)
            assert 0.1 < q <= 1
            assert q == layer_q(name, delta, keep=0.1, calibration=found.calibration, **options)
    with raises(ValueError, "[calibration] the layer must be one of 2 seen, got 'embed.weight'"):
        layer_q("embed.weight", base["embed.weight"], keep=0.1, eta=1.0, calibration=calibration)
