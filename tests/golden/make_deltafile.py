"""Makes the golden delta files anew, after make_stores.py: only for a new version of their format.

PYTHONPATH=tests/support python tests/golden/make_deltafile.py
"""

import tempfile
from pathlib import Path

from delta_files import OPTIONS
from paths import GOLDEN

import pydelta
from pydelta.deltafile import diff, patch


def main() -> None:
    with pydelta.use_backend("reference"), tempfile.TemporaryDirectory() as folder:
        for kind, options in OPTIONS.items():
            file = GOLDEN / "deltafile" / f"{kind}.safetensors"
            diff(GOLDEN / "base", GOLDEN / "a.safetensors", file, force=True, **options)
            patched = patch(GOLDEN / "base", file, Path(folder) / kind)
            if kind != "lossless":  # that one is a.safetensors
                tensors = pydelta.load_checkpoint(patched)
                pydelta.save_checkpoint(tensors, file.with_name(f"{kind}-a.safetensors"), force=True)


if __name__ == "__main__":
    main()
