"""What an opened store tells: its models, their tensors as they lie there, and what they lose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.rules import EXACT, SUPERPOSED, Rule
from pydelta.superposition.reading.describe import describe
from pydelta.superposition.reading.errors import relative_error

if TYPE_CHECKING:
    import torch

    from pydelta.superposition.reading.residual import ResidualElements
    from pydelta.superposition.reading.source import Source

Pathlike = str | os.PathLike[str]


class Contents:
    """A store as it was when it was opened.

    Attributes:
        path: its folder.
        files, manifest: its files, held open, and what ``store.json`` said.
    """

    def __init__(self, path: Path, files: StoreFiles) -> None:
        self.path = path
        self.files = files
        self.manifest = files.manifest

    @property
    def models(self) -> list[str]:
        """The models' names, sorted."""
        return sorted(self.manifest.models)

    def bucket(self, model: str) -> int:
        """The number of the bucket that holds a model; models of one bucket share their superposed tensors.

        Raises:
            ValueError: an unknown model.
        """
        self._known(model)
        return self.manifest.bucket(model)

    def source(self, model: str, tensor: str) -> Source:
        """One superposed tensor of a model as it lies in the store, mapped into memory.

        Args:
            model: its name.
            tensor: one whose rule (``self.manifest.rules``) is "superposed"; its ``dim`` is the input axis.

        Returns:
            ``(superposed, key, lam)``, so that ``pydelta.retrieve(base, superposed, key, lam=lam,
            transform=self.manifest.transform_of(tensor), dim=dim)`` is the model's tensor but for
            its :meth:`residual`. ``superposed`` is a tensor, or in a low-bit store a
            :class:`pydelta.Quantized`.

        Raises:
            ValueError: an unknown model, or a tensor that is not superposed.
        """
        from pydelta.superposition.reading.source import source

        self._superposed(model, tensor)
        return source(self.files, model, tensor)

    def residual(self, model: str, tensor: str) -> ResidualElements | None:
        """The elements of a superposed tensor of a model that the store keeps exactly.

        Returns:
            ``(places, values)``: (k,) int64, ascending indices in C order, and (k,) of the tensor's dtype,
            which take the place of what is retrieved; None where nothing is kept.

        Raises:
            ValueError: an unknown model, a tensor that is not superposed, or a file that is not sound.
        """
        rule, file = self._superposed(model, tensor), self.files.residual.get(model)
        if file is None:
            return None
        from pydelta.superposition.reading.residual import read_residual

        return read_residual(file, tensor, rule)

    def exact(self, model: str) -> dict[str, torch.Tensor]:
        """A model's own tensors, those whose rule is "exact", mapped into memory.

        Raises:
            ValueError: an unknown model.
        """
        self._known(model)
        file = self.files.exact[model]
        return {name: file.tensor(name) for name in file.names}

    def own_files(self, model: str) -> dict[str, Path]:
        """The small files that a model's base lacks or has otherwise: name below its folder -> path.

        Raises:
            ValueError: an unknown model.
        """
        self._known(model)
        return self.files.own_files(model)

    def unlike_base(self, model: str) -> list[str]:
        """Tensors of a model that a module like the base cannot hold.

        The base lacks them, has them in another shape, or has other integers; another floating dtype is no
        other tensor.
        """
        self._known(model)
        rules, departs = self.manifest.rules, self.manifest.models[model].departs
        other = [
            tensor
            for tensor, info in departs.own.items()
            if tensor not in rules or info.shape != rules[tensor].shape or rules[tensor].rule != EXACT
        ]
        return [*other, *departs.rows]

    def _superposed(self, model: str, tensor: str) -> Rule:
        self._known(model)
        rule = self.manifest.rules.get(tensor)
        if rule is None or rule.rule != SUPERPOSED:
            raise ValueError(f"{self.path}: tensor {tensor!r} is not superposed")
        return rule

    def _known(self, model: str) -> None:
        if model not in self.manifest.models:
            raise ValueError(f"{self.path}: holds no model {model!r}; it holds {', '.join(self.models)}")

    def interference(self) -> dict[str, float]:
        """Model -> expected relative squared error of its retrieved delta at lambda 1.

        With P the sum of w_j^2 ||tau_j||^2 over the models of its bucket and D the distortion of the codes, 0
        without, it is P / ((1 - D) w_k^2 ||tau_k||^2) - 1; infinite for a model that has no delta while
        others have. The expected cosine is ``1 / sqrt(1 + error)``. With masks P is of what they keep, and
        what they change in tau_k is added to the error.
        """
        return {name: relative_error(self.manifest, name) for name in self.models}

    def measure(
        self, name: str, path: Pathlike, *, base: Pathlike | None = None, progress: bool = False
    ) -> dict[str, float | None]:
        """The true relative squared error of a model's retrieved delta at lambda 1, not calibrated.

        Args:
            name: of the model.
            path: its tuned checkpoint.
            base, progress: as in :meth:`retrieve`.

        Returns:
            Superposed tensor -> ||retrieved - tuned||^2 / ||tuned - base||^2, and that over all of them under
            the name ``""``; None where that is infinite. Rounding to the base's dtype is part of it.

        Raises:
            ValueError: as :meth:`retrieve`, or a checkpoint that does not fit the base.
            OSError: a file cannot be read.
        """
        from pydelta.superposition.reading.measure import measure

        return measure(self.path, self.files, name, path, base=base, show=progress)

    def describe(self) -> dict[str, Any]:
        """What ``pydelta inspect`` prints, as plain JSON data."""
        return describe(self.path, self.files)
