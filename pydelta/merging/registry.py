"""Methods by name: every module of a folder is one."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Sequence

from pydelta.merging.method import Method


class Registry:
    """The methods of one package, loaded on first use.

    Args:
        package, path: the package's name and its ``__path__``.
        op: for messages.

    Attributes:
        names: the methods' names, sorted: those of the files.
    """

    def __init__(self, package: str, path: Iterable[str], op: str) -> None:
        self._package, self._op = package, op
        self.names = tuple(sorted(module.name for module in pkgutil.iter_modules(path)))

    def get(self, name: str) -> Method:
        """The method of that name.

        Raises:
            ValueError: there is none; the message has the nearest name.
        """
        if name not in self.names:
            known = ", ".join(self.names)
            raise ValueError(
                f"[{self._op}] method must be one of {known}, got {name!r}{near(name, self.names)}"
            )
        method: Method = importlib.import_module(f"{self._package}.{name}").METHOD
        return method


def near(name: object, known: Sequence[str]) -> str:
    """``"; did you mean ...?"``, or nothing."""
    matches = difflib.get_close_matches(str(name), known, 1)
    return f"; did you mean {matches[0]}?" if matches else ""
