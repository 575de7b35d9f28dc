"""Makes the goldens: tiny models, and what mergekit makes of them by the recipes beside this file.

    pip install mergekit; python tests/golden/mergekit/make.py

mergekit serves as an oracle, and only here: the tests read ``goldens.safetensors``, whose tensors ``base``,
``a``, ``b``, ``c`` are the models and the others the outputs by the recipes' names. A model lies there as one
vector: its tensors flattened, one after the other in the order of their names; the metadata has the shapes.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
WIDTH, INNER, WORDS, LAYERS = 4, 6, 8, 3
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": WORDS,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def shapes():
    found = {
        "lm_head.weight": (WORDS, WIDTH),
        "model.embed_tokens.weight": (WORDS, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for i in range(LAYERS):
        layer = {
            "input_layernorm.weight": (WIDTH,),
            "mlp.down_proj.weight": (WIDTH, INNER),
            "mlp.gate_proj.weight": (INNER, WIDTH),
            "mlp.up_proj.weight": (INNER, WIDTH),
            "post_attention_layernorm.weight": (WIDTH,),
            "self_attn.k_proj.weight": (WIDTH // 2, WIDTH),
            "self_attn.o_proj.weight": (WIDTH, WIDTH),
            "self_attn.q_proj.weight": (WIDTH, WIDTH),
            "self_attn.v_proj.weight": (WIDTH // 2, WIDTH),
        }
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return dict(sorted(found.items()))


def models():
    generator = torch.Generator().manual_seed(0)

    def draw(scale):
        return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes().items()}

    base = draw(1.0)
    deltas = {name: draw(0.1) for name in "abc"}
    return {"base": base} | {
        name: {tensor: base[tensor] + delta[tensor] for tensor in base} for name, delta in deltas.items()
    }


def flat(state):
    assert sorted(state) == list(shapes())
    return torch.cat([state[name].flatten() for name in sorted(state)])


def merged(recipe):
    config = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text()))
    with tempfile.TemporaryDirectory() as out:
        options = MergeOptions(allow_crimes=True, write_model_card=False, copy_tokenizer=False, quiet=True)
        run_merge(config, out, options)
        return load_file(Path(out) / "model.safetensors")


def main():
    states = models()
    found = {name: flat(state) for name, state in states.items()}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, state in states.items():
            Path(name).mkdir()
            save_file(state, f"{name}/model.safetensors", metadata={"format": "pt"})
            Path(name, "config.json").write_text(json.dumps(CONFIG))
        for recipe in sorted(HERE.glob("recipes/*.yml")):
            found[recipe.stem] = flat(merged(recipe))
    save_file(found, HERE / "goldens.safetensors", metadata={"shapes": json.dumps(shapes())})


main()
