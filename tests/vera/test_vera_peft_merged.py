"""Merged weights bit for bit as PEFT merges them, and the heads that it trains beside an adapter."""

import json

import pytest
import safetensors
import safetensors.torch
import torch
from tensors import assert_same_bits, normal, raises
from vera_models import IDS, TARGETS, Classifier, Model, llama, trained

from pydelta import cli, load_checkpoint, vera

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not (load|save) vera_A:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


def randomised(model):
    """A PEFT model with other vectors and heads."""
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            if "vera_lambda" in name:
                p.copy_(normal(*p.shape, seed=i) * 0.3)
            elif "modules_to_save" in name:
                p.add_(normal(*p.shape, seed=i))
    return model.eval()


def mixed():
    """A base whose layers are of several dtypes: PEFT rounds its draw to each of them in turn."""
    model = Model()
    model.layers[1].v_proj.bfloat16()
    return model


BASES = {
    "float32": Model,
    "bfloat16": lambda: Model(torch.bfloat16),
    "float16": lambda: Model(torch.float16),
    "mixed": mixed,
}


@pytest.mark.parametrize("save_projection", [True, False])
@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], TARGETS], ids=len)
def test_merged_weights_are_pefts_bits(tmp_path, kind, targets, save_projection):
    config = peft.VeraConfig(r=5, target_modules=targets, save_projection=save_projection)
    theirs = randomised(peft.get_peft_model(BASES[kind](), config))
    theirs.save_pretrained(tmp_path / "adapter")
    safetensors.torch.save_file(BASES[kind]().state_dict(), tmp_path / "base.safetensors")
    truth = theirs.merge_and_unload().state_dict()
    model = BASES[kind]()
    adapters = vera.load_peft(tmp_path / "adapter", model)
    adapters.merge()
    for name, x in adapters.detach().state_dict().items():
        assert_same_bits(x, truth[name])
    if "out" in targets:
        return  # a bare file does not say that a weight is (in, out)
    names = [str(tmp_path / name) for name in ("base.safetensors", "adapter", "out.safetensors")]
    assert cli.main(["vera", "merge", *names[:2], "-o", names[2], "--quiet"]) == 0
    for name, x in load_checkpoint(names[2]).items():
        assert_same_bits(x, truth[name])


def test_a_folder_of_ours_says_what_its_matrices_were_rounded_to(tmp_path):
    config = peft.VeraConfig(r=5, target_modules=["q_proj"], save_projection=False)
    theirs = randomised(peft.get_peft_model(Model(torch.bfloat16), config))
    theirs.save_pretrained(tmp_path / "adapter")
    truth = theirs.merge_and_unload().state_dict()["layers.0.q_proj.weight"]
    wide = Model()  # the base in another dtype than it was trained in
    adapters = vera.load_peft(tmp_path / "adapter", wide, projection_dtype=torch.bfloat16)
    vera.save_peft(tmp_path / "again", adapters)
    with safetensors.safe_open(tmp_path / "again" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["pydelta.projection_dtype"] == "BF16"
    model = Model(torch.bfloat16)
    vera.load_peft(tmp_path / "again", model).merge()
    assert_same_bits(model.layers[0].q_proj.weight.detach(), truth)
    safetensors.torch.save_file(Model().state_dict(), tmp_path / "base.safetensors")
    merged = []
    for flags in ([], ["--projection-dtype", "bfloat16"]):
        out = tmp_path / f"out{len(flags)}.safetensors"
        names = [str(tmp_path / "base.safetensors"), str(tmp_path / "adapter"), "-o", str(out), "--quiet"]
        assert cli.main(["vera", "merge", *names, *flags]) == 0
        merged.append(load_checkpoint(out)["layers.0.q_proj.weight"])
    adapters.merge()
    assert_same_bits(merged[1], wide.layers[0].q_proj.weight.detach())
    assert not torch.equal(merged[0], merged[1])


def test_heads_of_peft(tmp_path):
    config = peft.VeraConfig(r=5, target_modules=["body.0", "body.2"], modules_to_save=["head"])
    theirs = randomised(peft.get_peft_model(Classifier(), config))
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        truth = theirs(normal(5, 12))
    model = Classifier().eval()
    adapters = vera.load_peft(tmp_path / "adapter", model)
    with torch.no_grad():
        torch.testing.assert_close(model(normal(5, 12)), truth, rtol=1e-5, atol=1e-5)
    vera.save_peft(tmp_path / "again", adapters)
    settings = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert settings["modules_to_save"] == ["head"]
    theirs.merge_adapter()  # merge_and_unload fails on a head that has no weight of its own
    inside = theirs.base_model.model.state_dict()
    kept = {
        name.replace("modules_to_save.default.", "").replace("base_layer.", ""): x
        for name, x in inside.items()
    }
    merged = {name: x for name, x in kept.items() if "original" not in name and "vera" not in name}
    safetensors.torch.save_file(Classifier().state_dict(), tmp_path / "base.safetensors")
    for folder in ("adapter", "again"):
        names = [str(tmp_path / name) for name in ("base.safetensors", folder)]
        out = tmp_path / f"{folder}.safetensors"
        assert cli.main(["vera", "merge", *names, "-o", str(out), "--quiet"]) == 0
        for name, x in load_checkpoint(out).items():
            assert_same_bits(x, merged[name])
    folder = tmp_path / "adapter"
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"modules_to_save": ["tail"]}))
    with pytest.raises(ValueError, match=r"tensors that are not VeRA's: base_model\.model\.head\."):
        vera.load_peft(folder, Classifier())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"modules_to_save": "head"}))
    with raises(ValueError, f"{file}: modules_to_save must be a list of names, got 'head'"):
        vera.load_peft(folder, Classifier())


@pytest.mark.parametrize("exported", [True, False])
def test_our_heads_load_in_peft(tmp_path, exported):
    module, adapters = trained()
    with torch.no_grad():
        truth = module(normal(5, 12))
    if exported:
        vera.save(tmp_path / "a.safetensors", adapters)
        out = ["-o", str(tmp_path / "peft"), "--quiet"]
        assert cli.main(["vera", "export", "--peft", str(tmp_path / "a.safetensors"), *out]) == 0
    else:
        vera.save_peft(tmp_path / "peft", adapters)
    theirs = peft.PeftModel.from_pretrained(Classifier(), tmp_path / "peft").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(normal(5, 12)), truth, rtol=1e-4, atol=1e-5)


def test_a_bases_weight_in_the_file_must_be_the_bases(tmp_path, capsys):
    """PEFT keeps the weights of output layers that it adapts, and writes them over those of the base."""
    config = peft.VeraConfig(r=4, target_modules=["lm_head", "q_proj"])
    theirs = randomised(peft.get_peft_model(llama(tied=False), config))
    with pytest.warns(UserWarning, match="Setting `save_embedding_layers`"):
        theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        truth = theirs(IDS).logits
        model = llama(tied=False)
        vera.load_peft(tmp_path / "adapter", model)
        torch.testing.assert_close(model(IDS).logits, truth, rtol=1e-5, atol=1e-5)
        other = llama(tied=False)
        other.lm_head.weight[3, 5] += 1
    message = "'lm_head' has another weight than the base's that is in the adapter's file"
    with pytest.raises(ValueError, match=message):
        vera.load_peft(tmp_path / "adapter", other)
    merged = theirs.merge_and_unload().state_dict()
    for base, code in ((llama(tied=False), 0), (other, 1)):
        base.save_pretrained(tmp_path / f"base{code}")
        names = [str(tmp_path / name) for name in (f"base{code}", "adapter", f"out{code}")]
        assert cli.main(["vera", "merge", *names[:2], "-o", names[2], "--quiet"]) == code
    assert message in capsys.readouterr().err
    for name, x in load_checkpoint(tmp_path / "out0").items():
        assert_same_bits(x, merged[name])


def test_ranks_of_their_own_are_refused_by_name(tmp_path):
    """PEFT's VeRA has one rank; a file with several is none of its."""
    config = peft.VeraConfig(r=5, target_modules=["q_proj"])
    randomised(peft.get_peft_model(Model(), config)).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = "base_model.model.layers.1.q_proj.vera_lambda_d"
    safetensors.torch.save_file(tensors | {name: torch.ones(3)}, file)
    with pytest.raises(ValueError, match=rf"tensor {name} must have shape \(5,\)"):
        vera.load_peft(tmp_path, Model())
