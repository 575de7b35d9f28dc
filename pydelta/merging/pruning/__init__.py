"""The ways to prune one delta, one module each: a file in this folder is one, under the file's name."""

from pydelta.merging.registry import Registry

PRUNINGS = Registry(__name__, __path__, "prune")
