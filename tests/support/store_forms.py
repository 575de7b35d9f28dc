"""The stores of which golden files are kept."""

from paths import GOLDEN

LATEST = {
    "largest": {"mask": "magnitude", "keep": 0.3, "dtype": "bf16", "transform": "auto"},
    "random": {"mask": "random", "keep": 0.5, "exact": True, "shuffle_layers": True},
    "calibrated": {
        "calibration": {"b": GOLDEN / "calibration.safetensors"},
        "transform": "auto",
        "lam": 0.5,
        "weights": {"b": 2.0},
    },
    "residual": {"mask": "breadcrumbs", "keep": 0.5, "residual": 0.1, "bits": 1, "room": 2},
}
"""Of version 3, which stores still have whose models are in everything else like their base."""

DEPARTING = {
    "own": {"allow_missing": ["mtp.*"]},
    "own-codes": {"allow_missing": ["mtp.*"], "rate": 4, "residual": 0.1, "mask": "magnitude", "keep": 0.5},
}
"""Of version 4."""
