"""Keys and streams of random numbers; they live in :mod:`pydelta.core.random`."""

from pydelta.core.random import *  # noqa: F403
