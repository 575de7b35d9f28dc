"""The version, once: the package, files and logs carry it."""

__version__ = "0.1.0"
