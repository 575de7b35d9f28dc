"""Adapter files and the command line: small, portable, refused when they are not sound."""

import json
import os
import subprocess
import sys

import pytest
import safetensors
import safetensors.torch
import torch
from paths import GOLDEN, ROOT, TESTS
from tensors import assert_same_bits, normal, raises
from torch import nn
from vera_models import Block, Model, attached

import pydelta
from pydelta import cli, vera
from pydelta.vera.file import Sizes, grouped, ungrouped


@pytest.fixture
def adapter(tmp_path):
    """An adapter's file, and the model that it is of."""
    model, adapters = attached(seed=2**63 + 5)
    vera.save(tmp_path / "a.safetensors", adapters)
    return tmp_path / "a.safetensors", model


def test_a_file_is_its_vectors_and_a_kilobyte_at_most(tmp_path):
    """As of a model of 32 layers with seven adapted matrices each."""
    names = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    layers = [nn.ModuleDict({name: nn.Linear(8, 8) for name in names}) for _ in range(32)]
    model = nn.ModuleDict({"model": nn.ModuleDict({"layers": nn.ModuleList(layers)})})
    adapters = vera.attach(model, targets=names, rank=3)
    vera.save(tmp_path / "a.safetensors", adapters)
    numbers = 32 * 7 * (3 + 8)
    size = (tmp_path / "a.safetensors").stat().st_size
    assert 4 * numbers < size <= 4 * numbers + 1024
    assert vera.inspect(tmp_path / "a.safetensors")["bytes_beside_vectors"] == size - 4 * numbers


def test_a_file_gives_the_adapter_back(adapter):
    path, model = adapter
    other = Model()
    vera.load(path, other, "mine")
    x = normal(4, 12)
    assert_same_bits(other(x), model(x))
    assert vera.Adapters(other).seed() == 2**63 + 5


def test_a_file_gives_the_same_outputs_in_a_fresh_process(adapter, tmp_path):
    path, model = adapter
    safetensors.torch.save_file({"x": normal(4, 12)}, tmp_path / "x.safetensors")
    program = (
        "import sys, torch, safetensors.torch; from pydelta import vera; from vera_models import Model\n"
        "model = Model(); vera.load(sys.argv[1], model)\n"
        "x = safetensors.torch.load_file(sys.argv[2])['x']\n"
        "safetensors.torch.save_file({'y': model(x).detach()}, sys.argv[3])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS / "support"), *sys.path])
    files = [str(path), str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors")]
    subprocess.run([sys.executable, "-c", program, *files], check=True, env=environment)
    found = safetensors.torch.load_file(files[2])["y"]
    torch.testing.assert_close(found, model(normal(4, 12)).detach(), rtol=1e-5, atol=1e-6)


def test_names_in_groups():
    size, other = Sizes(2, 3), Sizes(4, 5)
    sizes = {f"h.{i}.q": size for i in (0, 1, 2, 7)} | {"h.3.q": other, "head": other, "a.*.b": size}
    sizes |= {f"e.{i}.w.{j}": size for i in (0, 1) for j in (0, 1)} | {"h.007.q": size}
    rows = grouped(sizes)
    assert ["h.*.q", "0-2,7", 2, 3] in rows
    assert ["h.*.q", "3", 4, 5] in rows
    assert ungrouped(rows) == sizes
    assert ungrouped(json.loads(json.dumps(rows))) == sizes


def rewritten(path, tensors=None, **metadata):
    """The file with other metadata or tensors."""
    with safetensors.safe_open(path, "pt") as file:
        found = file.metadata() | metadata
        old = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = {key: text for key, text in found.items() if text is not None}
    safetensors.torch.save_file(old if tensors is None else tensors, path, found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pydelta.vera": None}, "not a VeRA adapter of version 1 or 2: no such mark"),
        ({"pydelta.vera": "9"}, "not a VeRA adapter of version 1 or 2: version '9'"),
        ({"seed": "-1"}, "the metadata seed, rank and layers are not sound"),
        ({"seed": None}, "the metadata seed, rank and layers are not sound"),
        ({"rank": "0"}, "the metadata seed, rank and layers are not sound"),
        ({"layers": "[[1]]"}, "the metadata seed, rank and layers are not sound"),
        ({"layers": '[["a*","0-99999999999",1,1]]'}, "the metadata seed, rank and layers are not sound"),
        ({"rank": "6"}, "tensor 'vectors' must have shape"),
        ({"tensors": {"other": torch.ones(3)}}, "must hold the float32 tensor 'vectors' alone"),
        ({"tensors": {"vectors": torch.ones(3, dtype=torch.half)}}, "must hold the float32 tensor"),
    ],
    ids=range(10),
)
def test_unsound_files(adapter, change, message):
    path, _ = adapter
    rewritten(path, **change)
    with pytest.raises(ValueError, match=message) as caught:
        vera.load(path, Model())
    assert str(path) in str(caught.value)


def test_the_documentation_has_the_learning_rate_and_the_published_figures():
    text = (ROOT / "docs" / "vera.md").read_text()
    for fact in ("ten times LoRA's", "85.2", "86.6", "87.8", "6.82 MB", "1011 s", "942 s"):
        assert fact in text


def test_nan_is_refused(adapter):
    path, _ = adapter
    vectors = safetensors.torch.load_file(path)["vectors"]
    vectors[3] = float("nan")
    rewritten(path, {"vectors": vectors})
    with raises(ValueError, f"{path}: tensor 'vectors' holds NaN or Inf"):
        vera.inspect(path)


def test_another_architecture(adapter):
    path, _ = adapter
    with pytest.raises(
        ValueError, match=r"does not fit this module: 'layers\.0\.q_proj' is not there; .* 6 more"
    ):
        vera.load(path, Block())
    model = Model()
    model.layers[1].q_proj = nn.Linear(12, 10)
    with raises(ValueError, f"{path}: does not fit this module: 'layers.1.q_proj' is 12 -> 10, not 12 -> 12"):
        vera.load(path, model)
    assert not any(isinstance(part, vera.VeraLinear) for part in model.modules())


def test_a_file_that_is_there_stays(adapter):
    path, model = adapter
    before = path.read_bytes()
    adapters = vera.Adapters(model)
    with raises(ValueError, f"{path}: already exists; --force (force=True) replaces it"):
        vera.save(path, adapters)
    assert path.read_bytes() == before
    vera.save(path, adapters, force=True)
    assert path.read_bytes() == before


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def base(tmp_path):
    pydelta.save_checkpoint(Model().state_dict(), tmp_path / "base")
    config = {"model_type": "gpt2"}  # whose layers with "c_proj" and the like are (in, out)
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    return tmp_path / "base"


def test_merged_on_the_command_line(tmp_path, base, capsys):
    model, adapters = attached(targets=["q_proj", "v_proj"])
    vera.save(tmp_path / "a.safetensors", adapters)
    out = tmp_path / "out"
    assert run(capsys, "vera", "merge", base, tmp_path / "a.safetensors", "-o", out) == (0, f"{out}\n", "")
    adapters.merge()
    adapters.detach()
    found = pydelta.load_checkpoint(out)
    assert found.keys() == model.state_dict().keys()
    for name, x in model.state_dict().items():
        torch.testing.assert_close(found[name], x, rtol=1e-6, atol=1e-6)
    assert (out / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_conv1d_on_the_command_line(tmp_path, capsys):
    """GPT-2's checkpoints hold names without the leading part that the module's have."""

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.ModuleDict({"c_proj": Model().layers[0].out})

    model = Outer()
    stored = {"c_proj.weight": model.transformer["c_proj"].weight.detach().clone()}
    pydelta.save_checkpoint(stored, tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2"}')
    _, adapters = attached(model=model, targets=["c_proj"])
    vera.save(tmp_path / "a.safetensors", adapters)
    out = tmp_path / "out.safetensors"
    assert run(capsys, "vera", "merge", tmp_path / "base", tmp_path / "a.safetensors", "-o", out)[0] == 0
    adapters.merge()
    merged = model.transformer["c_proj"].base.weight
    torch.testing.assert_close(pydelta.load_checkpoint(out)["c_proj.weight"], merged, check_dtype=True)


def test_a_merged_model_is_a_fine_tune_like_any_other(tmp_path, base, capsys):
    _, adapters = attached(targets=["q_proj"])
    vera.save(tmp_path / "a.safetensors", adapters)
    run(capsys, "vera", "merge", base, tmp_path / "a.safetensors", "-o", tmp_path / "out", "--quiet")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        f"merge_method: task_arithmetic\nbase_model: {base}\nmodels:\n"
        f"  - model: {tmp_path / 'out'}\n    parameters: {{weight: 1.0}}\ndtype: float32\n"
    )
    assert run(capsys, "merge", recipe, tmp_path / "merged", "--quiet") == (0, "", "")
    found, truth = (pydelta.load_checkpoint(tmp_path / name) for name in ("merged", "out"))
    for name, x in truth.items():
        torch.testing.assert_close(found[name], x, rtol=1e-6, atol=1e-7)
    store = "compress", f"--base={base}", f"--model={tmp_path / 'out'}", "-o", tmp_path / "store", "--quiet"
    assert run(capsys, *store) == (0, "", "")


def test_inspected_on_the_command_line(adapter, capsys):
    path, _ = adapter
    status, out, err = run(capsys, "vera", "inspect", path)
    assert (status, err) == (0, "")
    assert f"seed {2**63 + 5}, rank 5, 177 parameters" in out
    assert "layers.2.out  20 -> 12" in out
    status, out, _ = run(capsys, "vera", "inspect", path, "--json")
    assert json.loads(out) == vera.inspect(path)


def test_exported_on_the_command_line(adapter, tmp_path, capsys):
    path, model = adapter
    out = tmp_path / "peft"
    assert run(capsys, "vera", "export", "--peft", path, "-o", out) == (0, f"{out}\n", "")
    other = Model()
    vera.load_peft(out, other)
    torch.testing.assert_close(other(normal(4, 12)), model(normal(4, 12)), rtol=1e-4, atol=1e-5)


def test_commands_that_fail_leave_nothing(adapter, tmp_path, base, capsys):
    path, _ = adapter
    pydelta.save_checkpoint({"w.weight": torch.ones(2, 2)}, tmp_path / "other")
    out = tmp_path / "out"
    status, said, err = run(capsys, "vera", "merge", tmp_path / "other", path, "-o", out)
    assert (status, said) == (1, "")
    assert err.count("\n") == 1
    assert f"does not fit {path}: 'layers.0.q_proj' is not there" in err
    status, said, err = run(capsys, "vera", "inspect", base / "model.safetensors")
    assert (status, said) == (1, "")
    assert "not a VeRA adapter" in err
    for usage in (("vera",), ("vera", "merge", base), ("vera", "export", path, "-o", out)):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in usage])
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


GOLDEN = GOLDEN / "vera" / "adapter.safetensors"
SQUARES = 0.732991
"""Of the delta of one layer."""


def test_the_golden_file_is_read_and_written_again(tmp_path):
    """Made once from the model of these tests: version 1 stays as it is, and so do the matrices."""
    model = Model()
    adapters = vera.load(GOLDEN, model)
    vera.save(tmp_path / "again.safetensors", adapters)
    assert (tmp_path / "again.safetensors").read_bytes() == GOLDEN.read_bytes()
    assert {key: vera.inspect(GOLDEN)[key] for key in ("seed", "rank", "parameters")} == {
        "seed": 2**64 - 1,
        "rank": 2,
        "parameters": 3 * (2 + 12) + 3 * (2 + 20),
    }
    adapters.merge()
    merged = adapters.layers["layers.1.v_proj"].weight.detach() - Model().layers[1].v_proj.weight.detach()
    assert float(merged.double().square().sum()) == pytest.approx(SQUARES, rel=1e-5)
