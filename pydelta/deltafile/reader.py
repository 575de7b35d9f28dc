"""A delta file, held against its own manifest. Opening and describing one needs no torch."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.staging import Pathlike
from pydelta.checkpoint.tensor_names import FLOATS
from pydelta.core.mask_names import RANDOM
from pydelta.deltafile.manifest import (
    BASE,
    CODED,
    FILES,
    MOSTLY,
    NONE,
    QUANTIZED,
    STORED,
    WHOLE,
    BaseTensor,
    stored_name,
)
from pydelta.deltafile.parse import read_manifest
from pydelta.deltafile.shapes import stored_shapes

if TYPE_CHECKING:
    import torch

    from pydelta.core.quantized import Quantized


class DeltaFile:
    """What a delta file says and holds.

    Attributes:
        path, manifest: see :class:`~pydelta.deltafile.manifest.Manifest`.
        tensors: the model's tensors, name -> dtype and shape.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no delta file, of a newer version, or what it holds is not what it says.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise ValueError(f"{path}: not a delta file but a folder")
        self._file = Checkpoint(path)
        (header,) = self._file.shards.values()
        self.manifest = read_manifest(self.path, header.metadata)
        self.tensors = {name: self._model_tensor(name) for name in self.manifest.rules}
        stored = {stored for name in self.tensors for stored in self._stored(name)}
        stored |= {stored_name(FILES, name) for name in self.manifest.files}
        for name in self.manifest.files:
            info = self._file.tensors.get(stored_name(FILES, name))
            fits = info is not None and info.dtype == "U8" and len(info.shape) == 1
            if not fits:
                raise ValueError(f"{path}: file {name!r} must be stored as a list of bytes")
        if extra := sorted(self._file.tensors.keys() - stored):
            raise ValueError(f"{path}: holds tensors that its manifest does not explain: {', '.join(extra)}")

    def values(self, name: str) -> torch.Tensor:
        """The stored elements of a tensor: in its shape where it is stored whole, else in a row."""
        return self._file.tensor(stored_name("values", name))

    def own_files(self) -> dict[str, bytes]:
        """The small files of the model's own: name below its folder -> content.

        Raises:
            ValueError: one has other bytes than those that were stored.
        """
        contents = {}
        for name, digest in self.manifest.files.items():
            contents[name] = self._file.tensor(stored_name(FILES, name)).numpy().tobytes()
            if hashlib.sha256(contents[name]).hexdigest() != digest:
                raise ValueError(f"{self.path}: file {name!r} has other bytes than those that were stored")
        return contents

    def codes(self, name: str) -> Quantized:
        """The codes of a quantized tensor's delta, on the CPU.

        Raises:
            ValueError: scales are not sound.
        """
        from pydelta.deltafile.codes import read_codes

        coding = self.manifest.coding_of(name)
        assert coding is not None  # the header was checked
        codes, scales = (self._file.tensor(stored) for stored in self._stored(name))
        try:
            return read_codes(codes, scales, self.tensors[name].shape, coding)
        except ValueError as error:
            raise ValueError(f"{self.path}: tensor {name!r}: {error}") from None

    def check(self, name: str, device: torch.device) -> None:
        """Looks at all that is stored of a tensor.

        Raises:
            ValueError: it is not sound.
        """
        if self.manifest.rules[name].rule == QUANTIZED:
            self.codes(name)
        else:
            self.mask(name, device)

    def mask(self, name: str, device: torch.device) -> torch.Tensor:
        """Where the stored elements of a tensor belong.

        Returns:
            (N,) bool on ``device``, true as often as there are values.

        Raises:
            ValueError: the places are not sound, or not as many as the values.
        """
        import torch

        from pydelta.checkpoint.elements import rice
        from pydelta.checkpoint.elements.bits import count
        from pydelta.core.masks import RandomMask
        from pydelta.deltafile.selection import random_mask

        rule, size = self.manifest.rules[name], math.prod(self.tensors[name].shape)
        if rule.rule in (WHOLE, QUANTIZED):
            return torch.ones(size, dtype=torch.bool, device=device)
        (stored,) = self._file.shape(stored_name("values", name))
        if rule.rule == CODED:
            code = self._file.tensor(stored_name("places", name)).numpy()
            try:
                return torch.from_numpy(rice.decode(code, rule.rice or 0, stored, size)).to(device)
            except ValueError as error:
                raise ValueError(f"{self.path}: tensor {name!r}: {error}") from None
        mask = self.manifest.mask_of(name)
        assert isinstance(mask, RandomMask)  # the header was checked
        kept = random_mask(mask, size, device)
        chosen = count(kept)
        problem = f"its mask keeps {chosen} elements, but {stored} values are there"
        self._require(name, chosen == stored, problem)
        return kept

    def alike(self, a: str, b: str) -> bool:
        """Two tensors are stored the same way with the same bytes."""
        import torch

        from pydelta.checkpoint.elements.bits import bits

        rule = self.manifest.rules[a]
        named = rule.rule == RANDOM or (rule.rule == QUANTIZED and self.manifest.transform != NONE)
        if rule != self.manifest.rules[b] or named:  # what depends on names is never alike
            return False
        pairs = zip(self._stored(a), self._stored(b), strict=True)
        return all(torch.equal(*(bits(self._file.tensor(x)) for x in pair)) for pair in pairs)

    def describe(self) -> dict[str, Any]:
        """See :func:`pydelta.deltafile.describe`."""
        tensors = [
            {
                "name": name,
                "rule": self.manifest.rules[name].rule,
                "dtype": info.dtype,
                "shape": list(info.shape),
                "bytes": sum(self._file.tensors[stored].nbytes for stored in self._stored(name)),
            }
            | ({"why": why} if (why := self._why(info)) else {})
            for name, info in self.tensors.items()
        ]
        return {
            "kind": "delta",
            "path": str(self.path),
            **self.manifest.settings(),
            "base": {"fingerprint": self.manifest.fingerprint},
            "files": sorted(self.manifest.files),
            "bytes": self.path.stat().st_size,
            "tensors": tensors,
        }

    def _why(self, info: TensorInfo) -> str:
        """Why a tensor is stored whole; nothing if it is not."""
        if self.manifest.rules[info.name].rule != WHOLE:
            return ""
        base = self.manifest.base.get(info.name)
        if base is None:
            return "the base lacks it"
        if info.shape != base.shape:
            return f"shape {list(info.shape)}, in the base {list(base.shape)}"
        if info.dtype != base.dtype:
            return f"dtype {info.dtype}, in the base {base.dtype}"
        return MOSTLY

    def _stored(self, name: str) -> list[str]:
        return [stored_name(kind, name) for kind in STORED[self.manifest.rules[name].rule]]

    def _model_tensor(self, name: str) -> TensorInfo:
        """Dtype and shape of a tensor, if all that is stored of it fits its rule."""
        require = functools.partial(self._require, name)
        rule = self.manifest.rules[name]
        for stored in self._stored(name):
            require(stored in self._file.tensors, f"{stored!r} is missing")
        if rule.rule == WHOLE:
            values = self._file.tensors[stored_name("values", name)]
            return dataclasses.replace(values, name=name, offset=0)
        require(name in self.manifest.base, "the base has no such tensor")
        base = self.manifest.base[name]
        if rule.rule == QUANTIZED:
            self._check_codes(name, base)
        elif rule.rule != BASE:
            self._check_values(name, base)
        if rule.rule == CODED:
            places = self._file.tensors[stored_name("places", name)]
            require(places.dtype == "U8" and len(places.shape) == 1, "its places must be a list of bytes")
        if rule.rule == RANDOM:
            require(self.manifest.mask == RANDOM, "its rule is random, but the file's mask is not")
            require(base.dtype in FLOATS, f"no mask applies to {base.dtype}")
        return TensorInfo(name, base.dtype, base.shape)

    def _check_values(self, name: str, base: BaseTensor) -> None:
        values, size = self._file.tensors[stored_name("values", name)], math.prod(base.shape)
        wide = self.manifest.wide and self.manifest.rules[name].rule == RANDOM
        dtypes = FLOATS if wide else (base.dtype,)
        fits = values.dtype in dtypes and len(values.shape) == 1 and values.shape[0] <= size
        rule = f"its values must be {base.dtype}, at most {size} of them"
        self._require(name, fits, f"{rule}, got {values.dtype} of shape {list(values.shape)}")

    def _check_codes(self, name: str, base: BaseTensor) -> None:
        require, bits = functools.partial(self._require, name), self.manifest.bits
        require(bits is not None, "its rule is quantized, but the file states no bits")
        assert bits is not None
        matrix = base.dtype in FLOATS and len(base.shape) > 1 and math.prod(base.shape) > 0
        require(matrix, f"no codes apply to {base.dtype} of shape {list(base.shape)}")
        try:
            shapes = stored_shapes(base.shape, bits, self.manifest.group)
        except ValueError as error:
            raise ValueError(f"{self.path}: tensor {name!r}: {error}") from None
        for stored, dtype, shape in zip(self._stored(name), ("U8", "BF16"), shapes, strict=True):
            info = self._file.tensors[stored]
            rule = f"{stored!r} must be {dtype} of shape {list(shape)}"
            got = f"got {info.dtype} of shape {list(info.shape)}"
            require((info.dtype, info.shape) == (dtype, shape), f"{rule}, {got}")

    def _require(self, name: str, condition: bool, problem: str) -> None:
        if not condition:
            raise ValueError(f"{self.path}: tensor {name!r}: {problem}")
