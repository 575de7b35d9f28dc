"""Pruning: what stays of a delta, on state dicts, files and the command line."""

import json
import math

import pytest
import torch
from checkpoints import equal, family, state, tuned

from pydelta import load_checkpoint, prune, save_checkpoint
from pydelta.calibration import Calibration, LayerStatistics
from pydelta.cli import main
from pydelta.merging.pruning import PRUNINGS

BASE = state(0)
TUNED = tuned(BASE, 1, 0.5)
NAME = "layers.0.linear.weight"
DELTA = TUNED[NAME] - BASE[NAME]


def calibration(norm=None, name=NAME, n=40):
    norm = torch.rand(n) if norm is None else norm
    return Calibration({name: LayerStatistics(norm, torch.zeros(n), 9, 1)})


def kept(found, name=NAME):
    return found[name] != BASE[name]


@pytest.mark.parametrize("method", ["magnitude", "breadcrumbs"])
@pytest.mark.parametrize("group", ["tensor", "row"])
def test_magnitudes(method, group):
    found = prune(BASE, TUNED, method=method, keep=0.25, group=group)
    ranks = DELTA.abs().flatten() if group == "tensor" else DELTA.abs()
    order = ranks.argsort(dim=-1, descending=True).argsort(dim=-1).view(DELTA.shape)
    size = ranks.shape[-1]
    large = math.floor(0.01 * size) if method == "breadcrumbs" else 0
    wanted = (order >= large) & (order < large + size // 4)
    assert torch.equal(kept(found), wanted)
    assert torch.allclose(found[NAME][wanted], TUNED[NAME][wanted], atol=1e-6)


def test_random_masks_are_unbiased_and_have_a_name():
    found = prune(BASE, TUNED, method="random", keep=0.25)
    assert 0.15 < kept(found).float().mean() < 0.35
    assert torch.allclose(found[NAME] - BASE[NAME], kept(found) * DELTA * 4, atol=1e-5)
    assert equal(found, prune(BASE, TUNED, method="random", keep=0.25, name="tuned", group="row"))
    assert not equal(found, prune(BASE, TUNED, method="random", keep=0.25, name="other"))
    plain = prune(BASE, TUNED, method="random", keep=0.25, rescale=False)
    assert torch.allclose(plain[NAME][kept(found)], TUNED[NAME][kept(found)], atol=1e-6)
    half = prune(BASE, TUNED, method="random", keep=0.25, rescale="q", q=0.5)
    assert torch.allclose(half[NAME] - BASE[NAME], kept(found) * DELTA * 2, atol=1e-5)


def test_wanda_ranks_by_the_inputs_too():
    norm = torch.rand(40)
    found = prune(BASE, TUNED, method="wanda", keep=0.25, calibration=calibration(norm))
    order = (DELTA.abs() * norm).argsort(dim=1, descending=True).argsort(dim=1)
    assert torch.equal(kept(found), order < 10)
    other = "layers.1.linear.weight"
    order = (TUNED[other] - BASE[other]).abs().argsort(dim=1, descending=True).argsort(dim=1)
    assert torch.equal(kept(found, other), order < 10)


@pytest.mark.parametrize("method", PRUNINGS.names)
def test_whole_columns(method):
    norm = torch.rand(40)
    options = {"calibration": calibration(norm)} if method == "wanda" else {}
    found = prune(BASE, TUNED, method=method, keep=0.25, group="column", **options)
    columns = kept(found).any(0)
    assert torch.equal(kept(found), columns.expand(DELTA.shape))
    scores = DELTA.square().sum(0).sqrt() * (norm if method == "wanda" else 1)
    if method == "random":
        assert 2 <= columns.sum() <= 20
        assert torch.allclose(found[NAME] - BASE[NAME], columns * DELTA * 4, atol=1e-5)
    else:
        assert torch.equal(columns, scores.argsort(descending=True).argsort() < 10)
        assert torch.allclose(found[NAME] - BASE[NAME], columns * DELTA, atol=1e-5)


def test_columns_of_a_transposed_weight():
    base, model = {"c_fc.weight": torch.zeros(40, 24)}, {"c_fc.weight": DELTA.T.contiguous()}
    found = prune(base, model, method="magnitude", keep=0.25, group="column", input_dims={"*": 0})
    columns = (found["c_fc.weight"] != 0).any(1)
    assert torch.equal(columns, DELTA.square().sum(0).argsort(descending=True).argsort() < 10)


@pytest.mark.parametrize("group", ["tensor", "column"])
@pytest.mark.parametrize("method", ["random", "magnitude"])
def test_l1_restores_the_norm(method, group):
    found = prune(BASE, TUNED, method=method, keep=0.25, rescale="l1", group=group)
    assert (found[NAME] - BASE[NAME]).abs().sum().item() == pytest.approx(DELTA.abs().sum().item(), rel=1e-4)


@pytest.mark.parametrize("method", PRUNINGS.names)
@pytest.mark.parametrize("group", ["row", "column"])
def test_files_give_what_memory_gives(tmp_path, method, group):
    base, models = family(tmp_path, 1, dtype=torch.bfloat16)
    given = {"method": method, "keep": 0.3, "group": group, "calibration": calibration(), "name": "m"}
    path = prune(tmp_path / "base", tmp_path / "m0.safetensors", out=tmp_path / "out", **given)
    assert equal(load_checkpoint(path), prune(base, models["m0"], **given))


def test_what_is_not_pruned_is_the_tuned_models(tmp_path):
    """Rows that the base lacks, integers, the config."""
    base, models = family(tmp_path, 1)
    model = models["m0"] | {"embed.weight": torch.ones(33, 40), "position_ids": torch.arange(7) + 1}
    save_checkpoint(model, tmp_path / "m0")
    (tmp_path / "m0" / "config.json").write_text('{"vocab_size": 33}')
    given = {"method": "magnitude", "keep": 0.0, "vocabulary": "common"}
    path = prune(tmp_path / "base", tmp_path / "m0", out=tmp_path / "out", **given)
    found = load_checkpoint(path)
    assert torch.equal(found["embed.weight"][:30], base["embed.weight"])
    assert torch.equal(found["embed.weight"][30:], model["embed.weight"][30:])
    assert torch.equal(found["position_ids"], model["position_ids"])
    assert json.loads((path / "config.json").read_text()) == {"vocab_size": 33}
    assert "# A delta pruned by magnitude" in (path / "README.md").read_text()
    assert equal(found, prune(base, model, **given))


def test_command_line(tmp_path, monkeypatch, capsys):
    family(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    calibration(name=NAME).save("c.safetensors")
    args = ["prune", "base", "m0.safetensors", "-o", "out", "--keep", "0.3", "--force"]
    assert main([*args, "--method", "wanda", "--calibration", "c.safetensors"]) == 0
    assert capsys.readouterr().out == "out\n"
    assert main([*args, "--method", "random", "--rescale", "q", "--q", "0.9", "--seed", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "out", "method": "random", "keep": 0.3, "seed": 3}
    wanted = prune(
        load_checkpoint("base"),
        load_checkpoint("m0.safetensors"),
        method="random",
        keep=0.3,
        rescale="q",
        q=0.9,
        seed=3,
        name="m0.safetensors",
    )
    assert equal(load_checkpoint("out"), wanted)


BAD = {
    "method": (
        {"method": "wandas", "keep": 0.5},
        "method must be one of breadcrumbs, magnitude, random, wanda, got",
    ),
    "keep": ({"method": "random", "keep": 1.5}, r"parameter keep must lie in \[0, 1\], got 1.5"),
    "no norms": ({"method": "wanda", "keep": 0.5}, "calibration must be given for wanda"),
    "wanda's group": (
        {"method": "wanda", "keep": 0.5, "group": "tensor", "calibration": calibration()},
        "parameter group must be row or column, got 'tensor'",
    ),
    "drop_large": (
        {"method": "random", "keep": 0.5, "drop_large": 0.1},
        "parameter drop_large is not supported",
    ),
    "rescale": (
        {"method": "magnitude", "keep": 0.5, "rescale": 2},
        "parameter rescale must be true, false or l1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    given, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        prune(BASE, TUNED, **given)


def test_bad_files(tmp_path, monkeypatch, capsys):
    family(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    calibration(n=39).save("c.safetensors")
    args = ["prune", "base", "m0.safetensors", "-o", "out", "--keep", "0.3", "--method", "wanda"]
    assert main([*args, "--calibration", "c.safetensors"]) == 1
    assert f"{NAME} has 40 inputs, the calibration 39" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(args)
    assert "--calibration must be given for --method wanda" in capsys.readouterr().err
    assert main(["prune", "base", "zz", "-o", "out", "--keep", "0.3", "--method", "random"]) == 1
    assert (
        capsys.readouterr().err == "pydelta prune: zz: no such file or folder (models are not downloaded)\n"
    )
    assert not (tmp_path / "out").exists()
