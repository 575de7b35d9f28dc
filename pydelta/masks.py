"""Masks of deltas; they live in :mod:`pydelta.core.masks`."""

from pydelta.core.masks import *  # noqa: F403
