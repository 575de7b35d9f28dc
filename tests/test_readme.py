"""What the README shows in Python runs."""

import copy
import re
from pathlib import Path

import pytest
import torch
from serving import Toy, family

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.S)


def run(code, **names):
    exec(code.replace("4096, 4096", "64, 64").replace("block=256", "block=64"), names)
    return names


def test_the_ops():
    found = run(BLOCKS[0])
    delta, error = found["tuned"][0] - found["base"], found["a"] - found["tuned"][0]
    assert error.norm() < 2 * delta.norm()
    assert found["h"] is found["c"]


@pytest.mark.parametrize("block", BLOCKS[1:], ids=["serve", "train"])
def test_serving_and_training(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = Toy().eval()
    family(tmp_path, copy.deepcopy(module), ["cola", "sst2"])[0].path.rename("STORE")
    ids = torch.arange(15).view(3, 5)
    found = run(
        "import torch, pydelta\n" + block, module=module, x=ids, loss_of=lambda y: y[0].square().mean()
    )
    assert found["module"] is module
    assert (tmp_path / "task.safetensors").exists() == ("adapters" in found)
