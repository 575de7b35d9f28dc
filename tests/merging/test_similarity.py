"""Cosines of deltas."""

import json

import pytest
import torch
from checkpoints import family, paths

from pydelta import save_checkpoint
from pydelta.checkpoint.tensor_names import group_of
from pydelta.cli import main
from pydelta.merging import similarity as module
from pydelta.merging.similarity import similarity


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def deltas(model, base, names):
    return torch.cat([(model[name].double() - base[name].double()).flatten() for name in names])


def test_cosines_by_kind_and_overall(folder, monkeypatch):
    base, models = family(folder, 3)
    monkeypatch.setattr(module, "PART_BYTES", 1000)
    found = similarity(folder / "base", paths(folder, models))
    names = [name for name, x in base.items() if x.is_floating_point() and x.numel()]
    assert found.models == ("m0", "m1", "m2")
    assert set(found.groups) == {group_of(name) for name in names}
    for group, cosines in [("", found.overall), *found.groups.items()]:
        members = [name for name in names if not group or group_of(name) == group]
        rows = torch.stack([deltas(model, base, members) for model in models.values()])
        wanted = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T
        assert torch.tensor(cosines, dtype=torch.float64).sub(wanted).abs().max() < 1e-4
        if group:
            assert torch.allclose(torch.tensor(found.norms[group]).double(), rows.norm(dim=1), rtol=1e-4)


def test_conflicts_and_interference(folder, monkeypatch):
    base, models = family(folder, 3)
    monkeypatch.setattr(module, "PART_BYTES", 1000)
    found = similarity(folder / "base", paths(folder, models))
    names = [name for name, x in base.items() if x.is_floating_point() and x.numel()]
    for group, conflicts in [("", found.conflicts), *found.group_conflicts.items()]:
        members = [name for name in names if not group or group_of(name) == group]
        signs = torch.stack([deltas(model, base, members).sign() for model in models.values()])
        for i, a in enumerate(signs):
            for j, b in enumerate(signs):
                both = (a * b)[a * b != 0]
                assert conflicts[i][j] == pytest.approx(float((both < 0).double().mean()), nan_ok=True)
    taus = torch.stack([deltas(model, base, names) for model in models.values()])
    for k, tau in enumerate(taus):
        others = taus.sum(0) - tau
        assert found.merged[k] == pytest.approx(float(others.square().sum() / tau.square().sum()), rel=1e-3)
        squares = taus.square().sum(1)
        assert found.superposed[k] == pytest.approx(
            float((squares.sum() - squares[k]) / squares[k]), rel=1e-3
        )


def test_opposite_deltas_cancel_when_merged(folder):
    save_checkpoint({"w": torch.zeros(4)}, folder / "base.safetensors")
    for name, w in (("a", [1.0, 2.0, 0.0, 4.0]), ("b", [-1.0, -2.0, 3.0, -4.0])):
        save_checkpoint({"w": torch.tensor(w)}, folder / f"{name}.safetensors")
    found = similarity("base.safetensors", {name: f"{name}.safetensors" for name in "ab"})
    assert found.conflicts == [[0, 1], [1, 0]]
    assert found.merged == found.superposed == [30 / 21, 21 / 30]


def test_command_line(folder, capsys):
    _, models = family(folder, 3)
    args = ["similarity", "base", *(f"{name}={name}.safetensors" for name in models)]
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["all", "tensors", "m0", "m1", "m2"]
    assert lines[1].split()[:2] == ["m0", "1.000"]
    assert any(line.startswith("layers.*.linear.weight ") for line in lines)
    assert any(line.startswith("sign conflicts") for line in lines)
    assert lines[-4].split() == ["expected", "squared", "error", "merged", "superposed"]
    assert main([*args, "--json", "--out", "map.png"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall"][0][0] == pytest.approx(1)
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
    many = [f"n{i}=m{i % 3}.safetensors" for i in range(5)]
    assert main(["similarity", "base", *many]) == 0
    assert "mean" in capsys.readouterr().out


def test_a_delta_of_zeros_has_no_direction(folder, capsys):
    base, _ = family(folder, 1)
    save_checkpoint(base, "same.safetensors")
    assert main(["similarity", "base", "same.safetensors", "m0.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"][0] == [None, None]


@pytest.mark.filterwarnings("default")
def test_bad_input(folder, capsys):
    base, models = family(folder, 2)
    models["m0"]["embed.weight"] = torch.zeros(2, 2)
    del models["m0"]["scale"]
    save_checkpoint(models["m0"], "m0.safetensors", force=True)
    models["m0"] |= {"head": torch.ones(3), "layers.0.linear.weight": torch.zeros(20, 40)}
    save_checkpoint(models["m0"], "m0.safetensors", force=True)
    models["m1"]["conv.weight"][0] = torch.nan
    save_checkpoint(models["m1"], "m1.safetensors", force=True)
    assert main(["similarity", "base", "m0.safetensors", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == (
        "pydelta similarity: left out of the comparison: embed.weight (m0.safetensors has [2, 2]), "
        "scale (m0.safetensors lacks it), head (m0.safetensors alone has it)\n"
    )
    name = "layers.{}.linear.weight"
    deltas = [models["m0"][name.format(i)] - base[name.format(i)][: 20 if i == 0 else 24] for i in range(3)]
    norms = [delta.norm() ** 2 for delta in deltas]
    norm = json.loads(printed.out)["norms"]["layers.*.linear.weight"][0]
    assert norm == pytest.approx(float(sum(norms)) ** 0.5, rel=1e-5)
    assert main(["similarity", "base", "m1.safetensors"]) == 1
    assert "m1.safetensors: tensor 'conv.weight' holds NaN or Inf" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["similarity", "base", "a=m0.safetensors", "a=m1.safetensors"])
