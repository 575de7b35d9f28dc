"""Recipes: what they mean, what is refused, and what --check says without torch."""

import json
import subprocess
import sys
import time

import pytest
import torch
from checkpoints import equal, family, listing, paths

from pydelta import load_checkpoint, merge, save_checkpoint
from pydelta.cli import main
from pydelta.merging.recipes.mergekit_yaml import parse, read_recipe
from pydelta.merging.recipes.parameters import Depth, look_up

TIES = """
merge_method: ties
base_model: base
models:
  - model: m0.safetensors
    parameters: {weight: 1.0, density: 0.5}
  - model: m1.safetensors
    name: other
    parameters: {weight: 0.5}
parameters: {density: 0.3, lambda: 0.8}
tokenizer_source: base
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A base, two models and a recipe; the working directory."""
    family(tmp_path, 2)
    (tmp_path / "ties.yml").write_text(TIES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text, *args, folder):
    (folder / "recipe.yml").write_text(text)
    return main(["merge", "recipe.yml", *args])


def test_a_recipe_is_the_arguments_of_merge(folder, capsys):
    assert main(["merge", "ties.yml", "out"]) == 0
    assert capsys.readouterr() == ("out\n", "")
    models = {"m0.safetensors": "m0.safetensors", "other": "m1.safetensors"}
    merge(
        "base", models, method="ties", weights=[1.0, 0.5], density=[0.5, 0.3], lam=0.8, out="same.safetensors"
    )
    assert equal(load_checkpoint("out"), load_checkpoint("same.safetensors"))


def test_the_card_can_be_run_again(folder):
    merge("base", paths(folder, ["m0", "m1"]), method="dare_ties", density=[0.5, 0.3], seed=7, out="out")
    text = (folder / "out" / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert run(text, "again", "--seed", "7", "--quiet", folder=folder) == 0
    assert equal(load_checkpoint("out"), load_checkpoint("again"))


def test_seeds_are_outputs_of_one_read(folder, capsys):
    text = TIES.replace("ties", "dare_ties", 1)
    assert run(text, "out", "--seeds", "3", "--seed", "5", "--json", folder=folder) == 0
    assert json.loads(capsys.readouterr().out)["out"] == ["out-5", "out-6", "out-7"]
    for seed in (5, 6, 7):
        assert run(text, "one", "--seed", str(seed), "--force", "--quiet", folder=folder) == 0
        assert equal(load_checkpoint("one"), load_checkpoint(f"out-{seed}"))
        assert (folder / "one" / "README.md").read_bytes() == (
            folder / f"out-{seed}" / "README.md"
        ).read_bytes()
    with pytest.raises(SystemExit):
        main(["merge", "ties.yml", "x", "--seeds", "2"])
    assert "--seeds must be 1 for ties, which has no random masks" in capsys.readouterr().err
    assert run(text, "x.safetensors", "--seeds", "2", "--quiet", folder=folder) == 0
    assert (folder / "x-42.safetensors").is_file()


def test_gradients_filters_and_levels():
    names = [f"layers.{i}.{part}.weight" for i in range(5) for part in ("attn", "mlp")] + ["embed.weight"]
    depth = Depth(names)
    assert [depth.of(name) for name in names[::2]] == [0, 0.25, 0.5, 0.75, 1, 0]
    own = {"weight": [{"filter": "attn", "value": [0, 1, 0]}, {"filter": "layers.4", "value": 7}]}
    shared = {"weight": [2.0, 4.0]}
    found = {name: look_up([own, shared], "weight", name, depth.of(name)) for name in names}
    assert [found[f"layers.{i}.attn.weight"] for i in range(5)] == [0, 0.5, 1, 0.5, 0]
    assert [found[f"layers.{i}.mlp.weight"] for i in range(5)] == [2, 2.5, 3, 3.5, 7]
    assert found["embed.weight"] == 2
    assert look_up([own], "weight", "embed.weight", 0) is None
    assert Depth(["layers.0.weight"]).of("layers.0.weight") == 1


def test_a_setting_that_fits_no_tensor_is_missed(folder, capsys):
    text = TIES.replace("{weight: 0.5}", "{weight: [{filter: linear, value: 1}]}")
    assert run(text, "out", folder=folder) == 1
    assert "parameter weight of other is missing, for embed.weight" in capsys.readouterr().err


def change(old, new):
    return TIES.replace(old, new, 1)


REFUSED = {
    "yaml": ("a: [", "recipe.yml: not sound YAML ("),
    "a list": ("- 1", "recipe.yml: a recipe must be a mapping, got list"),
    "twice": (TIES + "merge_method: linear\n", "merge_method stands twice in the mapping of line"),
    "no method": (change("merge_method: ties", ""), "merge_method is missing"),
    "method": (
        change("ties", "slerps"),
        "merge_method must be one of breadcrumbs, breadcrumbs_ties, dare_linear, dare_ties, della, "
        "della_linear, linear, task_arithmetic, ties, got 'slerps'",
    ),
    "near": (change("ties", "dare_tie"), "got 'dare_tie'; did you mean dare_ties?"),
    "key": (
        TIES + "basemodel: x\n",
        "key basemodel of the recipe is not supported; supported are merge_method, ",
    ),
    "key of a model": (change("name: other", "nam: other"), "did you mean name?"),
    "tokenizer": (change("source: base", "source: union"), "tokenizer_source must be base, got 'union'"),
    "int8_mask": (
        change("lambda", "int8_mask: true, lambda"),
        "parameter int8_mask is not supported by ties",
    ),
    "parameter": (change("lambda", "lamda"), "parameter lamda is not supported by ties, which has weight"),
    "shared": (
        change("weight: 1.0", "lambda: 1.0"),
        "parameter lambda of m0.safetensors is one of the whole recipe",
    ),
    "value": (change("density: 0.3", "density: 1.3"), "parameter density must lie in [0, 1], got 1.3"),
    "text": (change("density: 0.3", "density: much"), "parameter density must lie in [0, 1], got 'much'"),
    "flag": (
        change("weight: 1.0", "weight: true"),
        "parameter weight of m0.safetensors must be a finite number",
    ),
    "empty": (change("density: 0.3", "density: []"), "parameter density must lie in [0, 1], got []"),
    "choice": (
        change("density: 0.3", "density: [{filtr: x, value: 0.5}]"),
        "parameter density must have the keys filter and value alone",
    ),
    "mixed": (
        change("density: 0.3", "density: [0.1, {value: 1}]"),
        "parameter density must hold values alone or",
    ),
    "nested": (
        change("density: 0.3", "density: {value: 0.5}"),
        "parameter density must lie in [0, 1], got {",
    ),
    "path": (
        change("m1.safetensors", "org/model"),
        "org/model: no such file or folder, nor a model in",
    ),
    "adapter": (change("m1.safetensors", "m1+lora"), "adapters (path+adapter) are not supported"),
    "names": (change("other", "m0.safetensors"), "two models are named 'm0.safetensors'"),
    "name": (change("other", "3"), "a model's name must be printable text, got 3"),
    "no base": (change("base_model: base", ""), "base_model is missing: ties merges deltas from a base"),
    "no models": (change("models:", "model:"), "a recipe must have either models or slices"),
    "dtype of a list": (TIES + "dtype: [float32]\n", "dtype must be one of float32, bfloat16"),
    "dtype": (TIES + "dtype: bf16\n", "dtype must be one of float32, bfloat16, float16, float64, got 'bf16'"),
    "parameters": (
        TIES.replace("{density: 0.3, lambda: 0.8}", "3"),
        "the parameters of the recipe must be a mapping",
    ),
    "two slices": (
        "merge_method: linear\nslices: [{sources: []}, {sources: []}]\n",
        "slices must be one slice over whole models: layers cannot be restacked",
    ),
    "layers": (
        "merge_method: linear\nparameters: {weight: 1}\n"
        "slices: [{sources: [{model: base, layer_range: [0, 2]}]}]\n",
        "base: layer_range must be [0, 3], the whole model, got [0, 2]",
    ),
    "later layers": (
        "merge_method: linear\nslices: [{sources: [{model: base, layer_range: [1, 3]}]}]\n",
        "layer_range must be [0, number of layers], got [1, 3]",
    ),
    "group": (
        change("lambda", "group: model, lambda").replace("density: 0.5", "density: [0.5, 0.1]"),
        "parameter density of m0.safetensors must be one number where group is model",
    ),
    "weights": (
        "merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}, "
        "{model: m0.safetensors, parameters: {weight: -1}}]\n",
        "weights must not add up to 0 where normalize is true, got [1.0, -1.0] for",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(folder, capsys, case):
    text, message = REFUSED[case]
    (folder / "recipe.yml").write_text(text)
    before = listing(folder)
    for args in (["merge", "recipe.yml", "out"], ["merge", "recipe.yml", "out", "--check"]):
        assert main(args) == 1
        printed = capsys.readouterr()
        assert message in printed.out + printed.err
        assert listing(folder) == before
    assert printed.err == "" or "YAML" in message or "mapping" in message


def test_check_finds_every_problem_at_once(folder, capsys):
    model = load_checkpoint("m1.safetensors")
    model |= {"embed.weight": torch.zeros(31, 40), "conv.weight": torch.zeros(6, 5, 3, 2)}
    del model["scale"]
    save_checkpoint(model, "m1.safetensors", force=True)
    text = change("density: 0.3", "density: 3, sparsity: 1") + "out_dtyp: float32\n"
    assert run(text, "base", "--check", folder=folder) == 1
    lines = capsys.readouterr().out.splitlines()
    for part in (
        "did you mean out_dtype?",
        "density must lie in [0, 1], got 3",
        "parameter sparsity is not supported",
        "other (m1.safetensors) lacks tensors of base: scale",
        "other: embed.weight has shape [31, 40], not [30, 40]",
        "other: conv.weight has shape [6, 5, 3, 2]",
        "base: the output must be apart from the input base",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 7


def test_check_says_what_it_will_take(folder, capsys):
    assert main(["merge", "ties.yml", "--check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    floats = sum(x.nbytes for x in load_checkpoint("base").values() if x.is_floating_point())
    assert found["written_bytes"] == floats + 7 * 8
    assert found["read_bytes"] == 2 * (3 * floats + 7 * 8)
    assert found["memory_bytes"] > 0
    assert main(["merge", "ties.yml", "--check"]) == 0
    assert capsys.readouterr().out.startswith("no problems: 11 tensors, ")


WITHOUT_TORCH = """
import sys, time
from pydelta.cli import main

start = time.process_time()
assert main(["merge", "ties.yml", "out", "--check"]) == 0
heavy = {"torch", "numpy", "triton", "safetensors"} & set(sys.modules)
assert not heavy, heavy
print(time.process_time() - start)
"""


def test_check_needs_no_torch_and_no_time(folder):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 0.5
    assert time.perf_counter() - start < 30
    assert not (folder / "out").exists()


USAGE = {
    "no out": (["merge", "ties.yml"], "OUT must be given"),
    "shards": (["merge", "ties.yml", "o", "--max-shard-size", "5XB"], "must be a size such as 5GB or 500MiB"),
    "threads": (["merge", "ties.yml", "o", "--threads", "0"], "must be at least 1, got 0"),
    "vocabulary": (["merge", "ties.yml", "o", "--vocabulary", "union"], "invalid choice: 'union'"),
}


@pytest.mark.parametrize("case", USAGE)
def test_bad_usage(folder, capsys, case):
    args, message = USAGE[case]
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_options(folder, capsys):
    args = ["--threads", "1", "--max-shard-size", "6KB", "--allow-missing", "scale", "--json"]
    model = load_checkpoint("m1.safetensors")
    del model["scale"]
    save_checkpoint(model, "m1.safetensors", force=True)
    threads = torch.get_num_threads()
    try:
        assert main(["merge", "ties.yml", "out", *args]) == 0
    finally:
        torch.set_num_threads(threads)
    assert json.loads(capsys.readouterr().out)["out"] == ["out"]
    assert len(list((folder / "out").glob("*.safetensors"))) == 4
    assert main(["merge", "ties.yml", "out", "--quiet"]) == 1
    assert main(["merge", "ties.yml", "nowhere/out", "--check", "--allow-missing", "scale"]) == 1
    assert "nowhere/out: its folder" in capsys.readouterr().out


def test_a_base_that_is_listed_has_no_delta(folder):
    listed = TIES.replace("models:\n", "models:\n  - model: ./base\n", 1)
    assert run(TIES, "a", "--quiet", folder=folder) == run(listed, "b", "--quiet", folder=folder) == 0
    assert equal(load_checkpoint("a"), load_checkpoint("b"))


def test_yaml_anchors_and_numbers_as_text(tmp_path):
    path = tmp_path / "r.yml"
    path.write_text(
        "x: &x {density: 1e-1, weight: 1}\nmerge_method: ties\n"
        "models: [{model: ., parameters: {<<: *x, weight: 2}}]\n"
    )
    recipe = read_recipe(path)
    assert recipe.models[0].levels == ({"density": "1e-1", "weight": 2},)
    assert [problem.split(" of ")[0] for problem in recipe.problems] == [
        "key x",
        "base_model is missing: ties merges deltas from a base",
    ]


def test_a_path_may_be_written_as_a_mapping(tmp_path):
    content = {"merge_method": "linear", "models": [{"model": {"model": {"path": str(tmp_path)}}}]}
    assert parse(content).models[0].path == str(tmp_path)
