"""Makes a base and four fine-tunes of about 350 million parameters in bf16, in the shape of a Llama model.

python bench/make_models.py FOLDER [--layers 24]
"""

import argparse
import json
from pathlib import Path

import torch

from pydelta import save_checkpoint

WIDTH, INNER, WORDS = 1024, 2816, 32000
NAMES = ("base", "m0", "m1", "m2", "m3")


def shapes(layers):
    found = {"model.embed_tokens.weight": (WORDS, WIDTH), "model.norm.weight": (WIDTH,)}
    for i in range(layers):
        layer = {f"self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkvo"}
        layer |= {f"mlp.{part}_proj.weight": (INNER, WIDTH) for part in ("gate", "up")}
        layer |= {"mlp.down_proj.weight": (WIDTH, INNER)}
        layer |= {"input_layernorm.weight": (WIDTH,), "post_attention_layernorm.weight": (WIDTH,)}
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return found


def config(layers):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": WORDS,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def make(folder, layers=25):
    """The folders that are not there yet: ``base`` and ``m0`` to ``m3``."""
    for number, name in enumerate(NAMES):
        path = Path(folder) / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        start, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(number)
        tensors = {}
        for tensor, shape in shapes(layers).items():
            weight = torch.randn(shape, generator=start) * 0.02
            if number:
                weight += torch.randn(shape, generator=own) * 0.001
            tensors[tensor] = weight.bfloat16()
        save_checkpoint(tensors, path)
        (path / "config.json").write_text(json.dumps(config(layers)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--layers", type=int, default=25)
    given = parser.parse_args()
    make(given.folder, given.layers)
