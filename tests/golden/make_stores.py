"""Makes the golden stores of the present format anew: only for a new version, in a folder of its own.

PYTHONPATH=tests/support python tests/golden/make_stores.py

Those of earlier versions, beside this file and in v2 and v3, were made by the pydelta that wrote them first.
"""

import json
import shutil
from pathlib import Path

import torch
from store_forms import DEPARTING

import pydelta
from pydelta.superposition.format.manifest import VERSION

HERE = Path(__file__).parent


def values(factor: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers in [-1, 1) that need no random generator."""
    count = torch.Size(shape).numel()
    return ((torch.arange(1, count + 1) * factor % 1021).float() / 512 - 1).reshape(shape).bfloat16()


def departing() -> None:
    """A fine-tune with a head, a longer vocabulary, packed integers, another dtype and a chat template."""
    base = pydelta.load_checkpoint(HERE / "base")
    base |= {
        "embed.weight": values(401, (6, 24)),
        "q.qweight": torch.arange(8, dtype=torch.int32).reshape(2, 4),
    }
    base |= {"q.scales": values(3, (2, 4)), "mtp.weight": values(5, (3, 24))}
    pydelta.save_checkpoint(base, HERE / "departing" / "base", force=True)
    tuned = {n: x + values(7, x.shape) / 64 if x.is_floating_point() else x for n, x in base.items()}
    del tuned["mtp.weight"]
    tuned |= {"embed.weight": values(409, (8, 24)), "q.qweight": base["q.qweight"] * 3}
    tuned |= {"conv.weight": tuned["conv.weight"].float() + 2**-12, "head.weight": values(31, (3, 24))}
    pydelta.save_checkpoint(tuned, HERE / "departing" / "a", force=True)
    (HERE / "departing" / "a" / "chat_template.jinja").write_text("{{ messages }}")


def main() -> None:
    (HERE / "departing").mkdir(exist_ok=True)
    departing()
    inputs = HERE / "departing"
    for kind, options in DEPARTING.items():
        folder = HERE / f"v{VERSION}" / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        with pydelta.use_backend("reference"):
            store = pydelta.Superposition.create(inputs / "base", {"a": inputs / "a"}, folder, **options)
            store.retrieve("a", folder.with_name(f"{kind}-a.safetensors"), force=True)
        content = json.loads((store.path / "store.json").read_text())
        content["base"] |= {"path": "base", "stamps": {}}
        (store.path / "store.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
        (store.path / "log.jsonl").write_text("")


if __name__ == "__main__":
    main()
