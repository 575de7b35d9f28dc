"""Delta files on live state dicts: a model's own tensors, all of them or none."""

import copy
import re

import pytest
import torch
from checkpoints import equal, family, state

from pydelta import load_checkpoint, save_checkpoint
from pydelta.deltafile import apply, diff, live, patch

OPTIONS = {
    "lossless": {"lossless": True},
    "random": {"keep": 0.2},
    "magnitude": {"keep": 0.2, "mask": "magnitude"},
    "breadcrumbs": {"keep": 0.2, "mask": "breadcrumbs"},
    "one bit": {"bits": 1},
    "one bit, plain": {"bits": 1, "transform": "none"},
}


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def files(folder, base, model, **options):
    """The delta file of two state dicts, and what patch gives."""
    save_checkpoint(base, folder / "base")
    save_checkpoint(model, folder / "tuned")
    file = diff(folder / "base", folder / "tuned", folder / "file", **options)
    return file, load_checkpoint(patch(folder / "base", file, folder / "out"))


def strided(x):
    """The same values with gaps between them, axes swapped in memory."""
    if x.dim() == 0:
        return x.clone()
    wide = torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype, device=x.device)
    swapped = wide[..., ::2].transpose(0, -1).contiguous().transpose(0, -1)
    swapped.copy_(x)
    return swapped if x.dim() > 1 else wide[..., ::2].copy_(x)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_apply_does_what_patch_does(tmp_path, device, kind, dtype):
    base, models = family(tmp_path, 1, dtype=dtype)
    file = diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / "file", **OPTIONS[kind])
    expected = load_checkpoint(patch(tmp_path / "base", file, tmp_path / "out"))
    assert (kind == "lossless") == equal(expected, models["m0"])
    for given in (
        {name: x.to(device, copy=True) for name, x in base.items()},
        {name: strided(x.to(device)) for name, x in base.items()},
    ):
        memory = {name: x.data_ptr() for name, x in given.items()}
        assert apply(file, given) is None
        assert equal({name: x.cpu() for name, x in given.items()}, expected)
        assert memory == {name: x.data_ptr() for name, x in given.items()}


def test_a_module_changes(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30), torch.nn.Linear(30, 2))
    tuned = copy.deepcopy(module)
    tuned(torch.randn(64, 20)).square().mean().backward()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter -= 0.1 * parameter.grad
    file, _ = files(tmp_path, module.state_dict(), tuned.state_dict(), lossless=True)
    apply(file, module.state_dict())
    assert equal(module.state_dict(), tuned.state_dict())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_names_the_file_does_not_know_stay(tmp_path):
    base, model = {"a": torch.zeros(3), "gone": torch.zeros(3)}, {"a": torch.ones(3)}
    file, _ = files(tmp_path, base, model, lossless=True)
    given = {
        **{name: x.clone() for name, x in base.items()},
        "other": torch.full((2,), 7.0),
        "text": "no tensor",
    }
    apply(file, given)
    assert given["text"] == "no tensor"
    del given["text"]
    assert equal(given, {"a": torch.ones(3), "gone": torch.zeros(3), "other": torch.full((2,), 7.0)})


def test_what_is_stored_whole(tmp_path):
    """Of another shape than in the base: the live tensor has it already."""
    base, model = {"a": torch.zeros(3), "b": torch.zeros(2)}, {"a": torch.ones(4), "b": torch.ones(2)}
    file, _ = files(tmp_path, base, {**model, "new": torch.ones(2, 2)}, lossless=True)
    given = {"a": torch.full((4,), torch.nan), "b": torch.zeros(2), "new": torch.empty(2, 2)}
    apply(file, given)
    assert equal(given, {**model, "new": torch.ones(2, 2)})
    with pytest.raises(
        ValueError, match=r"tensor 'a' must be F32 of shape \[4\], got torch.float32 of shape \[3\]"
    ):
        apply(file, {**base, "new": torch.empty(2, 2)})


def tie(names, x):
    return dict.fromkeys(names, x)


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_tied_weights_change_once(tmp_path, fraction):
    x = torch.randn(20, 10)
    y = torch.where(torch.rand(20, 10) < fraction, x + 1, x)
    file, _ = files(tmp_path, {"a": x, "b": x.clone()}, {"a": y, "b": y.clone()}, lossless=True)
    given = tie("ab", x.clone())
    apply(file, given)
    assert torch.equal(given["a"], y)
    given = {"a": x.clone(), "b": x.clone()}
    apply(file, given)
    assert equal(given, {"a": y, "b": y})


@pytest.mark.parametrize("options", [{"keep": 0.5}, {"lossless": True}, {"bits": 2}])
def test_tied_weights_that_would_differ(tmp_path, options):
    x, y = torch.randn(20, 10), torch.randn(20, 10)
    other = y if "keep" in options else x
    file, _ = files(tmp_path, {"a": x, "b": x.clone()}, {"a": y, "b": other.clone()}, **options)
    given = tie("ab", x.clone())
    with pytest.raises(
        ValueError, match="tensors 'a' and 'b' share memory, but the file changes them in diff"
    ):
        apply(file, given)
    assert torch.equal(given["a"], x)


def test_a_tie_through_another_view(tmp_path):
    x, y = torch.randn(10, 10), torch.randn(10, 10)
    file, _ = files(
        tmp_path, {"a": x, "b": x.t().contiguous()}, {"a": y, "b": y.t().contiguous()}, lossless=True
    )
    given = {"a": x.clone()}
    given["b"] = given["a"].t()
    with pytest.raises(ValueError, match="tensors 'a' and 'b' share memory"):
        apply(file, given)


def test_every_problem_is_listed_and_nothing_changes(tmp_path):
    base = state(0, layers=1)
    file, _ = files(tmp_path, base, {n: x + 1 for n, x in base.items()}, lossless=True)
    given = {name: x.clone() for name, x in base.items()}
    del given["scale"]
    given["embed.weight"] = given["embed.weight"][:-1]
    given["conv.weight"] = given["conv.weight"].half()
    given["layers.0.linear.weight"] = torch.empty(24, 40, device="meta")
    given["layers.0.norm.weight"] = torch.zeros(1).expand(40)
    before = {name: x.clone() for name, x in given.items() if not x.is_meta}
    with pytest.raises(ValueError, match=re.escape(f"{file}: does not fit the state dict: ")) as caught:
        apply(file, given)
    for part in (
        "tensor 'scale' is missing",
        "tensor 'embed.weight' must be F32 of shape [30, 40], got torch.float32 of shape [29, 40]",
        "tensor 'conv.weight' must be F32 of shape [6, 5, 3, 3], got torch.float16 of shape [6, 5, 3, 3]",
        "tensor 'layers.0.linear.weight' must be dense and hold values, got torch.strided on meta",
        "tensor 'layers.0.norm.weight' must have a place of its own for every element",
    ):
        assert part in str(caught.value)
    assert equal({name: given[name] for name in before}, before)


def test_values_that_are_not_the_bases_are_listed(tmp_path):
    base = state(0, layers=1)
    model = {**base, "scale": base["scale"] + 1}
    file, _ = files(tmp_path, base, model, lossless=True)
    given = {name: x.clone() for name, x in base.items()}
    for name in ("scale", "embed.weight", "position_ids"):  # the last two are the base's in the model
        given[name] += 1
    before = {name: x.clone() for name, x in given.items()}
    listed = [f"tensor '{name}' is not the base's" for name in ("position_ids", "embed.weight", "scale")]
    with pytest.raises(ValueError, match=re.escape("; ".join(listed))):
        apply(file, given)
    assert equal(given, before)
    apply(file, fresh := {name: x.clone() for name, x in base.items()})
    with pytest.raises(ValueError, match="tensor 'scale' is not the base's"):
        apply(file, fresh)  # a second time


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("layout", [torch.clone, strided])
def test_an_error_in_the_middle_is_undone(tmp_path, monkeypatch, error, kind, layout):
    base, _ = family(tmp_path, 1)
    file = diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / "file", **OPTIONS[kind])
    given = {name: layout(x) for name, x in base.items()}
    put, calls = live.put, []

    def fails(x, mask, values):
        calls.append(x)
        put(x, mask, values)
        if len(calls) == 4:
            raise error

    monkeypatch.setattr(live, "put", fails)
    with pytest.raises(type(error)):
        apply(file, given)
    assert len(calls) == 8
    assert equal(given, base)


def test_wrong_kinds(tmp_path):
    file, _ = files(tmp_path, {"a": torch.zeros(2)}, {"a": torch.ones(2)}, lossless=True)
    with pytest.raises(TypeError, match=r"\[apply\] state_dict must map names to tensors, got list"):
        apply(file, [torch.zeros(2)])
    with pytest.raises(TypeError, match=r"\[apply\] state_dict\['a'\] must be a tensor, got list"):
        apply(file, {"a": [0.0, 0.0]})
