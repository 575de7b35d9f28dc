"""The manifest in the header of a delta file, written plainly and read in ``parse``. No torch."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from pydelta.core.levels import MAGNITUDES
from pydelta.core.mask_names import MAGNITUDE, RANDOM
from pydelta.core.version import __version__

if TYPE_CHECKING:
    from pydelta.core.masks import BandMask, MagnitudeMask, RandomMask
    from pydelta.core.random import Key

FORMAT, VERSION = "pydelta-delta", 3
CODES_VERSION = 2
FILES = "files"
"""What a stored small file of the model's own is called before its name, as kinds of tensors are."""
BASE, WHOLE, CODED, QUANTIZED = "base", "whole", "coded", "quantized"
STORED = {
    BASE: (),
    WHOLE: ("values",),
    CODED: ("values", "places"),
    RANDOM: ("values",),
    QUANTIZED: ("codes", "scales"),
}
"""Rule -> the kinds of tensors stored under it: those of the model's tensor NAME are KIND/NAME."""
MOSTLY = "most of it has changed"
"""Why a tensor that fits the base is stored whole."""
BITS, ROW = tuple(MAGNITUDES), "row"
HADAMARD, NONE = TRANSFORMS = ("hadamard", "none")

SETTINGS = ("model", "seed", "mask", "keep", "drop_large", "factor")
CODE_SETTINGS = ("bits", "group", "transform")
"""These stand in files of version 2, which hold codes. Others are of version 1, for older readers too."""


@dataclasses.dataclass(frozen=True)
class BaseTensor:
    """A tensor of the base; ``sha256`` is over its bytes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a tensor of the model is stored.

    Attributes:
        rule: "base" (not at all, it is the base's), "whole", "coded" (values and a code of their places),
            "random" (values alone: seed and names give their places) or "quantized" (low-bit codes of the
            delta, and their scales).
        rice: the parameter of the code.
    """

    rule: str
    rice: int | None = None


class Coding(NamedTuple):
    """What ``superpose`` is told to make codes of a delta, and ``retrieve`` to add them to the base."""

    bits: int
    group: str | int
    transform: str
    key: Key


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that the header says beyond the stored tensors.

    Attributes:
        model, seed: of the keys of random masks and transforms.
        mask: one of ``MASKS``, None for a file that is lossless or holds codes.
        keep, drop_large, factor: of the mask, 1, 0 and 1 where it has none.
        bits, group, transform: of the codes, see :func:`pydelta.superpose`; ``bits`` is None where there are
            none.
        fingerprint: of the base.
        base: name -> tensor of the base.
        rules: name -> rule of the model's tensor.
        files: small file of the model's own -> SHA-256.
        wide: values under random masks may have the model's own dtype.
    """

    model: str
    seed: int
    mask: str | None
    keep: float
    drop_large: float
    factor: float
    bits: int | None = None
    group: str | int = ROW
    transform: str = HADAMARD
    fingerprint: str = ""
    base: dict[str, BaseTensor] = dataclasses.field(default_factory=dict)
    rules: dict[str, Rule] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    wide: bool = False
    made_by: str = __version__

    @property
    def version(self) -> int:
        """The oldest that can say it."""
        if self.files or self.wide:
            return VERSION
        return 1 if self.bits is None else CODES_VERSION

    @property
    def lossless(self) -> bool:
        return self.mask is None and self.bits is None

    def mask_of(self, name: str) -> RandomMask | MagnitudeMask | BandMask | None:
        """The mask of one tensor, where masks apply to it."""
        from pydelta.core.masks import BandMask, MagnitudeMask, RandomMask
        from pydelta.core.random import key

        if self.mask == RANDOM:
            return RandomMask(self.keep, key(self.seed, "mask", self.model, name), self.factor)
        if self.mask == MAGNITUDE:
            return MagnitudeMask(self.keep)
        return BandMask(self.keep, self.drop_large) if self.mask else None

    def coding_of(self, name: str) -> Coding | None:
        """How one tensor is coded, where codes apply to it."""
        from pydelta.core.random import key

        if self.bits is None:
            return None
        return Coding(self.bits, self.group, self.transform, key(self.seed, "signs", self.model, name))

    def metadata(self) -> dict[str, str]:
        """For the header of the file."""
        content = {
            "format": FORMAT,
            "version": self.version,
            "pydelta": self.made_by,
            **self.settings(),
            "base": {
                "fingerprint": self.fingerprint,
                "tensors": {name: dataclasses.asdict(tensor) for name, tensor in self.base.items()},
            },
            "tensors": {name: _plain(rule) for name, rule in self.rules.items()},
        } | ({"files": self.files} if self.version == VERSION else {})
        return {FORMAT: json.dumps(content, separators=(",", ":"))}

    def settings(self) -> dict[str, Any]:
        """What was given to ``diff``."""
        fields = SETTINGS if self.bits is None else SETTINGS + CODE_SETTINGS
        return {field: getattr(self, field) for field in fields}


def stored_name(kind: str, name: str) -> str:
    """The name of a stored tensor: its kind, and the model's tensor that it belongs to."""
    return f"{kind}/{name}"


def check_model_name(name: object) -> str:
    """A name that fits into a key.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ValueError(f"[diff] name must be printable text, got {name!r}")
    return name


def _plain(rule: Rule) -> dict[str, Any]:
    return {field: value for field, value in dataclasses.asdict(rule).items() if value is not None}
