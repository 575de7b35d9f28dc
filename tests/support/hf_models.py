"""Small transformers models, and stores of their fine-tunes."""

import pytest
import torch
from serving import family

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def bert():
    """Token types, positions, a pooler and a head with biases."""
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=16, num_labels=3, **SIZES)
    return transformers.BertForSequenceClassification(config)


def vit():
    """A convolution, and parameters that are no layer's weights."""
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **SIZES)
    return transformers.ViTForImageClassification(config)


def gpt2():
    """(in, out) weights, query, key and value in one, a tied head."""
    config = transformers.GPT2Config(vocab_size=30, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    return transformers.GPT2LMHeadModel(config)


def llama():
    """Grouped queries, RMS norms, a tied head."""
    options = {"vocab_size": 30, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **options))


def made(folder, make, kind=torch.float32, **options):
    torch.manual_seed(0)
    base = make().to(kind).eval()
    base.config.architectures = [type(base).__name__]
    base.config.dtype = kind
    store, models = family(folder, base, config=base.config, **options)
    return base, store, models
