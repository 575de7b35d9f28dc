"""VeRA adapters from and to PEFT, against the package itself."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from tensors import normal, raises
from torch import nn
from vera_models import TARGETS, Block, Model, attached

from pydelta import vera

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not (load|save) vera_A:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]

WIDE = ["q_proj", "v_proj"]


def tuned_by_peft(folder, *, save_projection=True, targets=WIDE, rank=5):
    """A PEFT model with random vectors, saved; gives its outputs."""
    config = peft.VeraConfig(r=rank, target_modules=targets, save_projection=save_projection, d_initial=0.1)
    model = peft.get_peft_model(Model(), config)
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            if "vera_lambda" in name:
                p.copy_(normal(*p.shape, seed=i) * 0.3)
    model.save_pretrained(folder)
    model.eval()
    with torch.no_grad():
        return model(normal(4, 12))


@pytest.mark.parametrize("save_projection", [True, False])
@pytest.mark.parametrize("targets", [WIDE, ["out"], TARGETS], ids=len)
def test_pefts_adapters_give_pefts_outputs(tmp_path, save_projection, targets):
    truth = tuned_by_peft(tmp_path, save_projection=save_projection, targets=targets)
    model = Model()
    adapters = vera.load_peft(tmp_path, model)
    with torch.no_grad():
        torch.testing.assert_close(model(normal(4, 12)), truth, rtol=1e-5, atol=1e-6)
        adapters.merge()
        torch.testing.assert_close(model(normal(4, 12)), truth, rtol=1e-4, atol=1e-5)
        adapters.unmerge()
    assert list(model.buffers()) == []


@pytest.mark.parametrize("targets", [WIDE, ["out"], TARGETS], ids=len)
def test_our_adapters_load_in_peft(tmp_path, targets):
    """Layers of several widths share PEFT's one A: its bound is that of the widest."""
    model, adapters = attached(targets=targets, rank=6)
    vera.save_peft(tmp_path / "adapter", adapters)
    loaded = peft.PeftModel.from_pretrained(Model(), tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(normal(4, 12)), model(normal(4, 12)), rtol=1e-4, atol=1e-5)


def test_pefts_adapters_go_back_to_peft(tmp_path):
    truth = tuned_by_peft(tmp_path / "theirs", save_projection=False)
    vera.save_peft(tmp_path / "ours", vera.load_peft(tmp_path / "theirs", Model()))
    loaded = peft.PeftModel.from_pretrained(Model(), tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(normal(4, 12)), truth, rtol=1e-6, atol=1e-6)


def test_pefts_adapters_train_and_mix(tmp_path):
    tuned_by_peft(tmp_path)
    model = Model()
    vera.load_peft(tmp_path, model, "a")
    adapters = vera.load_peft(tmp_path, model, "b")
    model(normal(4, 12)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapters.parameters("b"))
    message = "got PEFT's matrices of 'a' and PEFT's matrices of 'b'"
    with pytest.raises(ValueError, match=message), adapters.mixed(torch.tensor([0, 1])):
        pass


def test_they_have_no_seed_of_ours(tmp_path):
    tuned_by_peft(tmp_path / "theirs")
    adapters = vera.load_peft(tmp_path / "theirs", Model())
    message = "adapter 'default' must have matrices of a seed, got PEFT's: save_peft keeps them"
    with raises(ValueError, f"[vera] {message}"):
        vera.save(tmp_path / "ours.safetensors", adapters)
    assert not (tmp_path / "ours.safetensors").exists()


def test_a_merged_checkpoint_gives_pefts_outputs(tmp_path):
    import pydelta

    truth = tuned_by_peft(tmp_path / "adapter", save_projection=False)
    pydelta.save_checkpoint(Model().state_dict(), tmp_path / "base")
    vera.merge_checkpoint(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    model = Model()
    model.load_state_dict(pydelta.load_checkpoint(tmp_path / "out"))
    with torch.no_grad():
        torch.testing.assert_close(model(normal(4, 12)), truth, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    tuned_by_peft(folder)
    return folder


def changed(source, target, config=None, drop=(), **tensors):
    """A copy of PEFT's folder with other settings or tensors."""
    shutil.copytree(source, target)
    if config is not None:
        file = target / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    weights = target / "adapter_model.safetensors"
    found = safetensors.torch.load_file(weights)
    found = {name: x for name, x in found.items() if name not in drop} | tensors
    safetensors.torch.save_file(found, weights)
    return target


LAYER = "base_model.model.layers.0.q_proj.vera_lambda_b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"peft_type": "LORA"}}, "adapter_config.json: peft_type must be VERA, got 'LORA'"),
        ({"config": {"r": 0}}, "adapter_config.json: r must be a positive integer, got 0"),
        ({"config": {"bias": "all"}}, "bias must be none, got 'all'"),
        ({"config": {"r": 4}}, r"vera_lambda_d must have shape \(4,\)"),
        ({"extra": torch.ones(2)}, "tensors that are not VeRA's: extra"),
        ({"drop": [LAYER]}, r"is missing of: layers\.0\.q_proj"),
        ({"drop": ["base_model.vera_A"]}, "one of .* is missing"),
        ({LAYER: torch.ones(7)}, r"'layers\.0\.q_proj' is 12 -> 12, not 12 -> 7"),
        ({"base_model.vera_A": torch.ones(5, 3)}, r"vera_A must be \(5, 12\) at least, got \(5, 3\)"),
    ],
    ids=range(9),
)
def test_bad_folders(theirs, tmp_path, change, message):
    folder, model = changed(theirs, tmp_path / "bad", **change), Model()
    with pytest.raises(ValueError, match=message) as caught:
        vera.load_peft(folder, model)
    assert str(folder) in str(caught.value)
    assert [type(part) for part in model.modules()] == [type(part) for part in Model().modules()]


def test_another_architecture_a_pickle_and_nothing(theirs, tmp_path):
    with pytest.raises(ValueError, match=r"does not fit this module: layers\.0\.q_proj"):
        vera.load_peft(theirs, Block())
    assert isinstance(Block().q_proj, nn.Linear)
    folder = changed(theirs, tmp_path / "pickle")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="a pickle"):
        vera.load_peft(folder, Model())
    with pytest.raises(FileNotFoundError):
        vera.load_peft(tmp_path / "nothing", Model())
