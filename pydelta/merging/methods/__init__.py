"""The methods of merging, one module each: a file in this folder is a method, under the file's name."""

from pydelta.merging.registry import Registry

METHODS = Registry(__name__, __path__, "merge")
