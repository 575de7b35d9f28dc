#!/usr/bin/env bash
# RWKV in transformers generates other tokens for prompts in a batch than for each alone.
#
# Versions: torch 2.13.0, transformers 5.23.0 (CPU), Python 3.11.
# Expected: greedy generation of a batch of prompts of one length, without padding, gives what each prompt
# gives alone.
# Seen: rows differ. With a state, one token for each of two rows gives logits of shape (2, 2,
# vocabulary) in the place of (2, 1, vocabulary).
# The script fails when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 transformers==5.23.0
"$work/venv/bin/python" - <<'PY'
import torch
import transformers

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = {"hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
model = transformers.RwkvForCausalLM(transformers.RwkvConfig(vocab_size=40, context_length=32, **sizes)).eval()
ids = torch.randint(1, 40, (3, 5), generator=torch.Generator().manual_seed(1))
options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
together = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
alone = torch.cat([model.generate(x[None], attention_mask=torch.ones_like(x)[None], **options) for x in ids])
same = (together == alone).all(1).tolist()
print("rows that are the same in the batch and alone:", same)
with torch.no_grad():
    state = model(ids[:2], use_cache=True).state
    shape = tuple(model(ids[:2, :1], state=state, use_cache=True).logits.shape)
print("logits of two rows and one token, with a state:", shape)
assert not all(same)
assert shape == (2, 2, 40)
PY
