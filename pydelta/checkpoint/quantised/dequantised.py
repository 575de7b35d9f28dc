"""Checkpoints of fp8 and MXFP4 weights, read as if they were bf16. Opening one needs no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.checkpoint.header import TensorInfo
from pydelta.checkpoint.quantised.kinds import method_of, quantised
from pydelta.checkpoint.reader import Checkpoint
from pydelta.checkpoint.tensor_names import config_of

if TYPE_CHECKING:
    import torch

_DTYPE, _BYTES = "BF16", 2
_NARROW = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_BLOCKS = "_blocks"
_QUANTISATION = ("quantization_config", "compression_config")
_PAIRS = 16  # bytes of a block of MXFP4, two elements each
_BLOCK = 128
_EXPERTS = 2  # kept at a time, dequantised: parts of a tensor come one after the other


@dataclasses.dataclass(frozen=True)
class Packed:
    """What a dequantised tensor is made of.

    Attributes:
        weight, scale: names in the file; a scale of None is 1.
        block: the rows and columns that share a scale; MXFP4's are read otherwise.
    """

    weight: str
    scale: str | None
    block: tuple[int, int] | None


class Dequantised(Checkpoint):
    """A checkpoint whose quantised weights are bf16, dequantised part by part as they are read.

    fp8 weights are multiplied by their scales in fp32 and rounded once; a scale is of the tensor, of a row,
    or of a block (``weight_block_size`` of the config, by default 128 x 128). MXFP4 blocks (``X_blocks`` and
    ``X_scales``) are ``X``, with the input axis before the output's, as GPT-OSS has it in bf16. The scales
    are hidden.

    Args:
        path: as for :class:`Checkpoint`.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not sound, or holds weights that are quantised in another way.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._stored = dict(self.tensors)
        weights = quantised(self.tensors)
        hidden = {scale for scales in weights.values() for scale in scales}
        size = self._block_size()
        self._packed = dict(self._unpacked(name, size) for name in weights)
        shown = {packed.weight: name for name, packed in self._packed.items()}
        infos = {
            name: self._info_of(shown[name]) if name in shown else info
            for name, info in self._stored.items()
            if name not in hidden
        }
        self.shards = {
            file: dataclasses.replace(
                header, tensors={infos[name].name: infos[name] for name in header.tensors if name in infos}
            )
            for file, header in self.shards.items()
        }
        self.tensors = {info.name: info for info in infos.values()}
        self._header_of |= {name: self._header_of[packed.weight] for name, packed in self._packed.items()}
        self._lock = threading.Lock()
        self._experts: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()

    @property
    def dequantises(self) -> bool:
        """Whether any tensor is not as it lies in the files."""
        return bool(self._packed)

    def tensor(self, name: str) -> torch.Tensor:
        """As :meth:`Checkpoint.tensor`; a dequantised tensor is a copy."""
        import torch

        if name not in self._packed:
            return super().tensor(name)
        return self.read(name, torch.empty(self.shape(name), dtype=torch.bfloat16))

    def read(self, name: str, out: torch.Tensor, start: int = 0) -> torch.Tensor:
        """As :meth:`Checkpoint.read`."""
        packed = self._packed.get(name)
        if packed is None:
            return super().read(name, out, start)
        if packed.block is None:
            self._read_experts(name, packed, out.view(-1), start)
        else:
            self._read_rows(packed, out.view(-1), start)
        return out

    def read_bytes(self, name: str, out: memoryview, start: int = 0) -> None:
        """As :meth:`Checkpoint.read_bytes`: the bytes of the dequantised tensor."""
        import torch

        from pydelta.checkpoint.tensors import buffer

        if name not in self._packed:
            super().read_bytes(name, out, start)
            return
        first, end = start // _BYTES, -(-(start + len(out)) // _BYTES)
        part = torch.empty(end - first, dtype=torch.bfloat16)
        out[:] = buffer(self.read(name, part, first))[start - first * _BYTES :][: len(out)]

    def small_file(self, path: Path) -> bytes:
        """As :meth:`Checkpoint.small_file`; the config says nothing of a quantisation."""
        content = super().small_file(path)
        config = config_of(self) if self.folder and path == self.folder / "config.json" else {}
        if not self._packed or not config:
            return content
        return (json.dumps(unquantised(config), indent=2) + "\n").encode()

    def _read_rows(self, packed: Packed, out: torch.Tensor, start: int) -> None:
        """Elements ``start`` and on of a matrix of fp8, or of several, one after the other."""
        import torch

        from pydelta.checkpoint.tensors import TORCH, read_into

        info = self._stored[packed.weight]
        rows, columns = info.shape[-2:]
        first, end = start // columns, -(-(start + out.numel()) // columns)
        narrow = torch.empty((end - first) * columns, dtype=TORCH[info.dtype])
        read_into(self._header_of[packed.weight], info, narrow, first * columns)
        wide = narrow.float().view(-1, columns)
        if packed.scale is not None and packed.block is not None:
            scales = self._scales(packed, math.prod(info.shape[:-2]))
            indices = torch.arange(first, end)
            of_rows = scales[indices // rows, indices % rows // packed.block[0]]
            wide *= of_rows.repeat_interleave(packed.block[1], dim=1)[:, :columns]
        out.copy_(wide.view(-1)[start - first * columns :][: out.numel()])

    def _scales(self, packed: Packed, matrices: int) -> torch.Tensor:
        """(matrices, rows of scales, columns of scales) in fp32; bytes are exponents, E8M0."""
        import torch

        from pydelta.checkpoint.tensors import map_tensor

        assert packed.scale is not None
        stored = map_tensor(self._header_of[packed.scale], self._stored[packed.scale])
        scales = torch.exp2(stored.float() - 127) if stored.dtype == torch.uint8 else stored.float()
        shape = scales.shape[-2:] if scales.dim() > 1 else (1, 1)
        return scales.reshape(matrices, *shape)

    def _read_experts(self, name: str, packed: Packed, out: torch.Tensor, start: int) -> None:
        size = math.prod(self.shape(name)[1:])
        done = 0
        while done < out.numel():
            expert, offset = divmod(start + done, size)
            count = min(size - offset, out.numel() - done)
            out[done : done + count] = self._expert(packed, expert)[offset : offset + count]
            done += count

    def _expert(self, packed: Packed, expert: int) -> torch.Tensor:
        """One matrix of MXFP4, dequantised: (in * out,) bf16."""
        import torch

        from pydelta.checkpoint.tensors import read_into

        with self._lock:
            if (packed.weight, expert) in self._experts:
                self._experts.move_to_end((packed.weight, expert))
                return self._experts[packed.weight, expert]
            parts = []
            for stored in (packed.weight, packed.scale or ""):
                info = self._stored[stored]
                part = torch.empty(info.shape[1:], dtype=torch.uint8)
                parts.append(read_into(self._header_of[stored], info, part, expert * part.numel()))
            blocks, scales = parts
            values = torch.tensor(_E2M1)
            pairs = torch.stack([values[(blocks & 15).int()], values[(blocks >> 4).int()]], dim=-1)
            wide = torch.ldexp(pairs.flatten(-2), (scales.int() - 127).unsqueeze(-1))
            matrix = wide.flatten(-2).t().to(torch.bfloat16).reshape(-1)
            self._experts[packed.weight, expert] = matrix
            while len(self._experts) > _EXPERTS:
                self._experts.popitem(last=False)
            return matrix

    def _block_size(self) -> tuple[int, int]:
        settings: Any = config_of(self).get("quantization_config")
        size = settings.get("weight_block_size") if isinstance(settings, dict) else None
        if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
            return size[0], size[1]
        return _BLOCK, _BLOCK

    def _unpacked(self, name: str, size: tuple[int, int]) -> tuple[str, Packed]:
        """The name and the parts of what a quantised weight becomes."""
        info = self._stored[name]
        if info.dtype == "U8" and name.endswith(_BLOCKS):
            stem = name.removesuffix(_BLOCKS)
            scales = self._stored.get(f"{stem}_scales")
            if len(info.shape) == 4 and info.shape[-1] == _PAIRS and _is(scales, "U8", info.shape[:-1]):
                return stem, Packed(name, f"{stem}_scales", None)
        if info.dtype in _NARROW and len(info.shape) > 1:
            module = name.rpartition(".")[0]
            known = (f"{name}_scale_inv", f"{name}_scale", f"{module}.weight_scale", f"{module}.scale")
            scale = next((other for other in known if other in self._stored), None)
            block = _block(info.shape, self._stored[scale].shape if scale else (), size)
            if block is not None:
                return name, Packed(name, scale, block)
        raise ValueError(
            f"{self.path}: {name} ({info.dtype} of shape {list(info.shape)}, quantised by "
            f"{method_of(self) or 'an unknown method'}) cannot be dequantised here: fp8 with scales and "
            "MXFP4 can; save the model in bf16 by the library that made it"
        )

    def _info_of(self, name: str) -> TensorInfo:
        packed = self._packed[name]
        info = self._stored[packed.weight]
        shape = info.shape
        if packed.block is None:
            experts, rows, groups, pairs = shape
            shape = (experts, groups * pairs * 2, rows)
        return TensorInfo(name, _DTYPE, shape, info.offset)


_E2M1 = [sign * value for sign in (1.0, -1.0) for value in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)]


def unquantised(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose weights are bf16."""
    kept = {key: value for key, value in config.items() if key not in _QUANTISATION}
    keys = [key for key in ("dtype", "torch_dtype") if key in kept] or ["dtype"]
    return kept | dict.fromkeys(keys, "bfloat16")


def open_checkpoint(path: str | os.PathLike[str], *, dequantize: bool = False) -> Checkpoint:
    """A checkpoint as it lies, or with its quantised weights in bf16."""
    return Dequantised(path) if dequantize else Checkpoint(path)


def _is(info: TensorInfo | None, dtype: str, shape: tuple[int, ...]) -> bool:
    return info is not None and (info.dtype, info.shape) == (dtype, shape)


def _block(weight: tuple[int, ...], scale: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int] | None:
    """The rows and columns that share a scale; None where the shapes do not tell."""
    lead, matrix = weight[:-2], weight[-2:]
    if math.prod(scale) == math.prod(lead):
        return weight[-2], weight[-1]
    if len(scale) < 2 or scale[:-2] != lead:
        return None
    sides = [_side(length, count, side) for length, count, side in zip(matrix, scale[-2:], size, strict=True)]
    return None if None in sides else (sides[0] or 1, sides[1] or 1)


def _side(length: int, count: int, side: int) -> int | None:
    """How many elements share one of ``count`` scales along an axis."""
    if count == 1:
        return max(length, 1)
    if -(-length // side) == count:
        return side
    return length // count if count and length % count == 0 else None
