"""What the README shows runs, in Python and in the shell; so does what docs/training.md shows."""

import copy

import pytest
import torch
from pages import ROOT, blocks, run_python, run_shell, save_family

import pydelta

RECIPE = """
merge_method: ties
base_model: base
models:
  - {model: math, parameters: {weight: 1, density: 0.5}}
  - {model: code, parameters: {weight: 1, density: 0.5}}
"""


def network():
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_family(tmp_path, network(), ["math", "code", "law"])
    return tmp_path


def test_the_python_block(folder):
    (block,) = blocks("README.md", "python")
    names = {"module": network(), "x": torch.randn(3, 64)}
    run_python(block[1], names)
    assert names["y"].shape == (3, 64)
    assert names["mixed"].name == "merged"
    assert names["thin"].name == "pruned"


def test_the_shell_block(folder):
    (block,) = blocks("README.md", "sh")
    (folder / "recipe.yml").write_text(RECIPE)
    run_shell(block[1], folder)
    for path in ("code-again", "merged", "pruned", "math.delta", "math-again"):
        assert (folder / path).exists()


def test_the_page_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert all(len(line) <= 100 for line in lines if not line.startswith("|"))


def test_the_training_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = network()
    before = copy.deepcopy(module.state_dict())
    ((_, block),) = blocks("docs/training.md", "python")
    names = {"torch": torch, "pydelta": pydelta, "module": module, "x": torch.randn(3, 64)}
    names["loss_of"] = lambda y: y.square().mean()
    run_python(block, names)
    assert not names["optimizer"].param_groups[0]["params"][0].equal(before["0.weight"])
    assert (tmp_path / "task.safetensors").exists()
