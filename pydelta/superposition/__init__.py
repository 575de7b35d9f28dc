"""Stores of superposed fine-tunes. Opening and describing one needs no torch."""

from pydelta.superposition.store import Superposition

__all__ = ["Superposition"]
