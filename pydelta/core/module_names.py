"""Names of parameters and modules without what torch's wrappers put into them. No torch."""

from __future__ import annotations

import re

_WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OUTER = re.compile(r"^(?:module\.)+")


def plain_name(name: str) -> str:
    """A name without what torch.compile, DistributedDataParallel, FSDP and checkpointing put into it."""
    while (shorter := _OUTER.sub("", _WRAPPER.sub("", name))) != name:
        name = shorter
    return name
