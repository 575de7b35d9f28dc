"""Files that are no sound calibration are refused, with the tensor's name."""

import pytest
import torch
from tensors import raises

from pydelta import save_checkpoint
from pydelta.calibration import Calibration, Calibrator

METADATA = {"format": "pydelta-calibration", "version": "1"}
SOUND = {
    "w:column_norm": torch.ones(2),
    "w:mean": torch.ones(2),
    "w:rows": torch.tensor(3),
    "w:dim": torch.tensor(1),
    "w:output_norm2": torch.tensor(1.0).double(),
}
BAD_FILES = [
    ({"w:rows": torch.tensor(0)}, "tensor 'w:rows' must be finite and lie in [1, inf]"),
    ({"w:dim": torch.tensor(2)}, "tensor 'w:dim' must be finite and lie in [0, 1]"),
    (
        {"w:dim": torch.tensor(1.0)},
        "tensor 'w:dim' must be torch.int64 with 0 dimensions, got torch.float32 of ()",
    ),
    (
        {"w:mean": torch.ones(1, 2)},
        "tensor 'w:mean' must be torch.float32 with 1 dimensions, got torch.float32 of (1, 2)",
    ),
    ({"w:column_norm": -torch.ones(2)}, "tensor 'w:column_norm' must be finite and lie in [0, inf]"),
    ({"w:mean": torch.tensor([0.0, float("nan")])}, "tensor 'w:mean' must be finite and lie in [-inf, inf]"),
    (
        {"w:output_norm2": torch.tensor(float("inf")).double()},
        "tensor 'w:output_norm2' must be finite and lie in [0, inf]",
    ),
    ({"w:mean": torch.ones(3)}, "mean and column_norm of layer 'w' must have the same size"),
    ({"w:mean": None}, "layer 'w' lacks mean"),
    ({"v:dim": torch.tensor(1)}, "layer 'v' lacks column_norm, mean, rows"),
    ({"w:median": torch.ones(2)}, "tensor 'w:median' is no part of a calibration"),
    ({"w": torch.ones(2)}, "tensor 'w' is no part of a calibration"),
]


@pytest.mark.parametrize(("change", "message"), BAD_FILES)
def test_files_that_are_not_sound(tmp_path, change, message):
    path = tmp_path / "c.safetensors"
    tensors = {name: x for name, x in {**SOUND, **change}.items() if x is not None}
    save_checkpoint(tensors, path, metadata=METADATA)
    with raises(ValueError, f"{path}: {message}"):
        Calibrator.load(path)


def test_files_that_are_no_calibrations(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(SOUND, path)
    with raises(ValueError, f"{path}: not a calibration: its metadata does not say pydelta-calibration"):
        Calibrator.load(path)
    save_checkpoint(SOUND, path, metadata={**METADATA, "version": "2"}, force=True)
    with raises(ValueError, f"{path}: version must be 1, got '2'"):
        Calibrator.load(path)
    path.write_bytes(b"not a file of this kind")
    with raises(ValueError, f"{path}: not a safetensors file"):
        Calibrator.load(path)
    with pytest.raises(FileNotFoundError):
        Calibrator.load(tmp_path / "nothing.safetensors")
    message = f"{tmp_path / 'c.bin'}: a calibration is one file, whose name must end in .safetensors"
    with raises(ValueError, message):
        Calibration({}).save(tmp_path / "c.bin")
