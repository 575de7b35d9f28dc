"""Every model of a store on one live module: hot swap, and batches that mix models."""

from pydelta.superposition.serving.bank import Bank

__all__ = ["Bank"]
