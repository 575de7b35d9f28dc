"""Lambda per tensor and model, fitted to what the layers of a model see."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import equal, listing, paths

import pydelta
from pydelta import Superposition, load_checkpoint, save_checkpoint
from pydelta.calibration import Calibration, LayerStatistics
from pydelta.cli import main

SHAPES = {
    "layers.0.weight": (24, 64),
    "layers.1.weight": (24, 64),
    "layers.2.weight": (24, 64),
    "c_proj.weight": (64, 24),
    "norm.weight": (24,),
}
DIMS = {"c_proj.weight": 0}
MATRICES = [name for name, shape in SHAPES.items() if len(shape) == 2]
INPUTS = {"layers": 64, "c_proj": 64}


def rows_of(x, name):
    """(out, in) whatever the axis."""
    return x.T if DIMS.get(name) == 0 else x


def made(folder, count=4, *, kind=torch.float32, **options):
    """(base, tuned, inputs, store): deltas made of gradients by inputs in which some channels are large."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    outliers = torch.ones(64)
    outliers[::13] = 6.0
    base = {name: normal(*shape).to(kind) for name, shape in SHAPES.items()}
    save_checkpoint(base, folder / "base")
    tuned, inputs, calibrations = {}, {}, {}
    for k in range(count):
        tuned[f"m{k}"], inputs[f"m{k}"], layers = {}, {}, {}
        for name, x in base.items():
            if name not in MATRICES:
                tuned[f"m{k}"][name] = x
                continue
            seen = normal(48, 64) * outliers
            delta = 1e-4 * normal(24, 48) @ seen
            new = (x.float() + rows_of(delta, name)).to(kind)
            true = rows_of(new.float() - x.float(), name)
            inputs[f"m{k}"][name], tuned[f"m{k}"][name] = seen, new
            output = float((seen.double() @ true.double().T).square().sum())
            norm = seen.norm(dim=0)
            layers[name] = LayerStatistics(norm, seen.mean(0), 48, DIMS.get(name, 1), output)
        calibrations[f"m{k}"] = Calibration(layers)
        save_checkpoint(tuned[f"m{k}"], folder / f"m{k}.safetensors")
        calibrations[f"m{k}"].save(folder / f"c{k}.safetensors")
    options = {"input_dims": DIMS, "calibration": calibrations, **options}
    store = Superposition.create(folder / "base", paths(folder, tuned), folder / "store", **options)
    return base, tuned, inputs, store


def output_error(seen, found, true):
    return float((seen.double() @ (found.double() - true.double()).T).square().sum())


OPTIONS = [
    {},
    {"transform": "hadamard", "shuffle_layers": True},
    {"dtype": "bf16", "weights": {"m1": 3.0}, "lam": 0.5},
    {"bits": 1, "buckets": 2},
    {"bits": 4, "group": 8, "buckets": 2, "shuffle_layers": True, "transform": "sign"},
    {"exact": True},
    {"mask": "random", "keep": 0.5},
    {"mask": "magnitude", "keep": 0.4, "transform": "hadamard"},
    {"mask": "breadcrumbs", "keep": 0.4, "drop_large": 0.1, "bits": 1},
    {"residual": 0.05},
]


def own_part(delta, options):
    """What of a delta counts as the model's own: what a mask by magnitude leaves."""
    if options.get("mask") not in ("magnitude", "breadcrumbs"):
        return delta
    return pydelta.mask_rescale(delta, pydelta.BandMask(options["keep"], options.get("drop_large", 0.0)))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_formula_by_hand(tmp_path, options, kind):
    base, tuned, inputs, store = made(tmp_path, kind=kind, **options)
    transform = store.manifest.transform
    for name, model in tuned.items():
        entry = store.manifest.models[name]
        assert list(entry.lams) == MATRICES
        got = store.retrieve(name)
        for tensor in MATRICES:
            superposed, key, lam = store.source(name, tensor)
            assert lam == store.manifest.lam * entry.lams[tensor] / entry.weight
            dim = DIMS.get(tensor, 1)
            call = {"transform": transform, "dim": dim, "backend": "reference"}
            x = base[tensor]
            expected = pydelta.retrieve(x, superposed, key, lam=lam, **call)
            missed = (got[tensor] != expected).float().mean()
            assert missed <= options.get("residual", 0.0)
            at_one = pydelta.retrieve(
                x, superposed, key, lam=1 / entry.weight, out_dtype=torch.float32, **call
            )
            delta = model[tensor].float() - x.float()
            own = own_part(delta, options)
            error = rows_of(at_one.double() - x.double() - own.double(), tensor)
            seen = inputs[name][tensor].double()
            norms = [
                sum(seen[:, j].square().sum() * y[:, j].double().square().sum() for j in range(64))
                for y in (error, rows_of(own, tensor), rows_of(delta, tensor))
            ]
            noise, share = norms[0], norms[1] / norms[2]
            signal = share * (seen @ rows_of(delta, tensor).double().T).square().sum()
            assert entry.lams[tensor] == pytest.approx(float(signal / (signal + noise)), rel=2e-5)
            assert 0 < entry.lams[tensor] < 1


@pytest.mark.parametrize("transform", ["sign", "hadamard"])
def test_the_expected_noise_is_the_true_one(tmp_path, transform):
    """Over 5 seeds, 4 models and 4 tensors, of which each is random, within 10 %: cross terms vanish."""
    predicted = true = 0.0
    for seed in range(5):
        (folder := tmp_path / str(seed)).mkdir()
        base, tuned, inputs, store = made(folder, transform=transform, seed=seed)
        for name, model in tuned.items():
            for tensor in MATRICES:
                superposed, key, _ = store.source(name, tensor)
                found = pydelta.retrieve(
                    base[tensor], superposed, key, transform=transform, dim=DIMS.get(tensor, 1)
                )
                pair = (rows_of(x, tensor) for x in (found, model[tensor]))
                true += (error := output_error(inputs[name][tensor], *pair))
                signal = output_error(
                    inputs[name][tensor], *(rows_of(x[tensor], tensor) for x in (model, base))
                )
                predicted += signal / store.manifest.models[name].lams[tensor] - signal
                assert error > 0
    assert true == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("options", [{}, {"transform": "hadamard"}, {"rate": 0.25}])
def test_outputs_are_nearer_than_at_lambda_1(tmp_path, options):
    base, tuned, inputs, store = made(tmp_path, count=8, **options)
    plain = Superposition.create(
        tmp_path / "base", paths(tmp_path, tuned), tmp_path / "plain", input_dims=DIMS, **options
    )
    for name, model in tuned.items():
        errors = []
        for found in (store.retrieve(name), plain.retrieve(name)):
            errors.append(
                sum(
                    output_error(inputs[name][tensor], *(rows_of(x[tensor], tensor) for x in (found, model)))
                    for tensor in MATRICES
                )
            )
        signal = sum(
            output_error(inputs[name][tensor], *(rows_of(x[tensor], tensor) for x in (base, model)))
            for tensor in MATRICES
        )
        assert errors[0] < 0.75 * errors[1]
        assert errors[0] < signal


def test_a_lone_model_is_left_alone(tmp_path):
    _, tuned, _, store = made(tmp_path, count=1, kind=torch.bfloat16)
    assert set(store.manifest.models["m0"].lams.values()) == {1.0}
    assert equal(store.retrieve("m0"), tuned["m0"])


def test_a_lone_model_that_is_masked(tmp_path):
    """What magnitudes take is no noise, what chance takes is."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    largest = made(tmp_path / "a", count=1, mask="magnitude", keep=0.3)[-1]
    assert set(largest.manifest.models["m0"].lams.values()) == {1.0}
    random = made(tmp_path / "b", count=1, mask="random", keep=0.3)[-1]
    assert all(0 < lam < 1 for lam in random.manifest.models["m0"].lams.values())


def test_a_model_that_is_the_base(tmp_path):
    """It has no output of its own: what is retrieved beside others is noise alone, and goes."""
    base, _, _, store = made(tmp_path, count=2)
    layers = {
        name: LayerStatistics(torch.ones(64), torch.zeros(64), 1, DIMS.get(name, 1), 0.0) for name in MATRICES
    }
    after = store.add("same", tmp_path / "base", calibration=Calibration(layers))
    assert set(after.manifest.models["same"].lams.values()) == {0.0}
    assert equal(after.retrieve("same"), base)


@pytest.mark.parametrize("options", [{}, {"bits": 1, "buckets": 2, "room": 4}])
def test_models_come_and_go(tmp_path, options):
    _, _, _, whole = made(tmp_path, count=4, **options)
    first = paths(tmp_path, ["m0", "m1", "m2"])
    calibrations = {name: tmp_path / f"c{name[1]}.safetensors" for name in ("m0", "m2")}
    store = Superposition.create(
        tmp_path / "base", first, tmp_path / "new", input_dims=DIMS, calibration=calibrations, **options
    )
    assert store.manifest.models["m1"].lams == {}
    added = store.add("m3", tmp_path / "m3.safetensors", calibration=tmp_path / "c3.safetensors")
    assert [bool(model.lams) for model in added.manifest.models.values()] == [True, False, True, True]
    assert added.manifest.models["m0"] == store.manifest.models["m0"]
    if not options:  # the last by name, into the same sum
        assert added.manifest.models["m3"].lams == whole.manifest.models["m3"].lams
        assert equal(added.retrieve("m3"), whole.retrieve("m3"))
        assert added.manifest.models["m0"].lams != whole.manifest.models["m0"].lams
    assert Superposition.verify(added.path) == []
    less = added.remove("m3", tmp_path / "m3.safetensors")
    assert less.manifest.models == store.manifest.models
    plain = store.add("m3", tmp_path / "m3.safetensors")
    assert plain.manifest.models["m3"].lams == {}


@pytest.mark.parametrize(
    ("lams", "message"),
    [
        ([0.5], "models.m0.lams must be a factor in [0, 1] or null a superposed tensor, got [0.5]"),
        ([0.5, 0.5, 0.5, 1.5], "models.m0.lams must be a factor in [0, 1]"),
        ([0.5, 0.5, 0.5, True], "models.m0.lams must be a factor in [0, 1]"),
        ({}, "lams must be a JSON value of type list, got {}"),
    ],
)
def test_a_store_json_that_lies(tmp_path, lams, message):
    store = made(tmp_path)[-1]
    content = json.loads((store.path / "store.json").read_text())
    content["models"]["m0"]["lams"] = lams
    (store.path / "store.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)):
        Superposition.open(store.path)


def command(*words, seed="0"):
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-m", "pydelta", *map(str, words)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_another_process_gives_the_same_bits(tmp_path, monkeypatch, capsys):
    _, tuned, _, _ = made(tmp_path, count=2)
    monkeypatch.chdir(tmp_path)
    words = ["compress", "--base", "base", "-o", "other"]
    for name in tuned:
        words += ["--model", f"{name}={name}.safetensors", "--calibration", f"{name}=c{name[1]}.safetensors"]
    with pytest.raises(
        ValueError, match=r"'c_proj\.weight' has inputs \[64\] along axis 0, in the base \[24\]"
    ):
        Superposition.create("base", paths(tmp_path, ["m0"]), "s", calibration={"m0": "c0.safetensors"})
    for name, config in (("base", {"model_type": "gpt2"}),):
        (Path(name) / "config.json").write_text(json.dumps(config))
    command(*words, seed="1")
    command("retrieve", "other", "m1", "-o", "out", seed="2")
    other = Superposition.open("other")
    assert equal(load_checkpoint("out"), other.retrieve("m1"))
    assert main(["inspect", "other", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["models"]["m1"]["calibrated"]
    lams = sorted(other.manifest.models["m1"].lams.values())
    assert found == {"min": lams[0], "median": (lams[1] + lams[2]) / 2, "max": lams[3]}
    assert main(["inspect", "other"]) == 0
    assert f"min {lams[0]:.4g}, median " in capsys.readouterr().out


def statistics(**changes):
    found = {"column_norm": torch.ones(64), "mean": torch.zeros(64), "rows": 3, "dim": 1, "output_norm2": 1.0}
    return LayerStatistics(**{**found, **changes})


NAN = torch.full((64,), torch.nan)
BAD = {
    "another model's": ({"encoder.weight": statistics()}, "'encoder.weight' is no tensor of the base"),
    "a vector": ({"norm.weight": statistics()}, "'norm.weight' is no superposed matrix"),
    "another width": (
        {"layers.0.weight": statistics(column_norm=torch.ones(63))},
        "'layers.0.weight' has inputs [63] along axis 1, in the base [64] along axis 1",
    ),
    "another axis": (
        {"layers.0.weight": statistics(dim=0)},
        "'layers.0.weight' has inputs [64] along axis 0, in the base [64] along axis 1",
    ),
    "no base": (
        {"layers.0.weight": statistics(output_norm2=None)},
        "'layers.0.weight' has no output norm: make the calibration with Calibrator(model, base=...)",
    ),
    "NaN": (
        {"layers.0.weight": statistics(column_norm=NAN)},
        "'layers.0.weight' has norms that are negative",
    ),
    "Inf": ({"layers.0.weight": statistics(output_norm2=float("inf"))}, "has norms that are negative, NaN"),
    "nothing": ({}, "it has no layer"),
}


@pytest.mark.parametrize("case", BAD)
def test_calibrations_that_do_not_fit(tmp_path, case):
    layers, message = BAD[case]
    _, _, _, store = made(tmp_path, count=2)
    before = listing(tmp_path)
    bad = Calibration(layers)
    message = (
        re.escape("[compress] the calibration of 'm0' must be of the model's layers: ")
        + ".*"
        + re.escape(message)
    )
    with pytest.raises(ValueError, match=message):
        Superposition.create(
            tmp_path / "base",
            paths(tmp_path, ["m0"]),
            tmp_path / "new",
            input_dims=DIMS,
            calibration={"m0": bad},
        )
    with pytest.raises(ValueError, match=message.replace("'m0'", "'m9'")):
        store.add("m9", tmp_path / "m0.safetensors", calibration=bad)
    assert listing(tmp_path) == before


def test_calibrations_of_no_model_or_of_no_kind(tmp_path):
    _, _, _, store = made(tmp_path, count=1)
    where = paths(tmp_path, ["m0"])

    def create(calibration):
        return lambda: Superposition.create(
            tmp_path / "base", where, tmp_path / "new", calibration=calibration
        )

    calls = [
        (create({"m7": "c0"}), ValueError, r"\[compress\] calibration must be of the models m0, got 'm7'"),
        (
            create({"m0": 3}),
            TypeError,
            r"\[compress\] calibration\['m0'\] must be a path or a Calibration, got int",
        ),
        (create({"m0": tmp_path / "none.safetensors"}), FileNotFoundError, "no such file"),
        (create({"m0": where["m0"]}), ValueError, "not a calibration"),
        (lambda: store.add("m1", where["m0"], calibration=where["m0"]), ValueError, "not a calibration"),
    ]
    for call, kind, message in calls:
        with pytest.raises(kind, match=message):
            call()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["c0.safetensors"], "--calibration must be NAME=FILE, got 'c0.safetensors'"),
        (["m0="], "--calibration must be NAME=FILE, got 'm0='"),
        (["m7=c0.safetensors"], "--calibration must be of the models m0, got 'm7'"),
        (["m0=a", "m0=b"], "--calibration must be given once for each model, got 'm0' twice"),
    ],
)
def test_bad_usage(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    flags = [word for text in words for word in ("--calibration", text)]
    for command in (["compress", "--base", "base", "-o", "s"], ["add", "store"]):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--model", "m0=m0.safetensors", *flags])
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"pydelta {command[0]}: {message}\n"
