"""Cosines of deltas."""

import json

import pytest
import torch
from checkpoints import family, paths

from pydelta import save_checkpoint
from pydelta.checkpoint.names import group_of
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


def test_command_line(folder, capsys):
    _, models = family(folder, 3)
    args = ["similarity", "base", *(f"{name}={name}.safetensors" for name in models)]
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["all", "tensors", "m0", "m1", "m2"]
    assert lines[1].split()[:2] == ["m0", "1.000"]
    assert any(line.startswith("layers.*.linear.weight ") for line in lines)
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


def test_bad_input(folder, capsys):
    _, models = family(folder, 2)
    models["m0"]["embed.weight"] = torch.zeros(2, 2)
    del models["m0"]["scale"]
    save_checkpoint(models["m0"], "m0.safetensors", force=True)
    models["m1"]["conv.weight"][0] = torch.nan
    save_checkpoint(models["m1"], "m1.safetensors", force=True)
    assert main(["similarity", "base", "m0.safetensors"]) == 1
    message = capsys.readouterr().err
    assert "lacks scale" in message
    assert "embed.weight has shape [2, 2], not [30, 40]" in message
    assert main(["similarity", "base", "m1.safetensors"]) == 1
    assert "m1.safetensors: tensor 'conv.weight' holds NaN or Inf" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["similarity", "base", "a=m0.safetensors", "a=m1.safetensors"])
