"""``pydelta.Superposition``: a folder that holds many fine-tunes of one base in the bytes of about one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.log import locked
from pydelta.superposition.format.manifest_reader import read_manifest
from pydelta.superposition.reading.contents import Contents

if TYPE_CHECKING:
    import torch

    from pydelta.calibration import Calibration
    from pydelta.superposition.serving import Bank

Pathlike = str | os.PathLike[str]


class Superposition(Contents):
    """A superposition store: RanDeS, randomized delta superposition (arXiv 2505.11204).

    Make one with :meth:`create`, or :meth:`open` one. ``docs/formats.md`` describes the files.
    """

    @classmethod
    def create(
        cls,
        base: Pathlike,
        models: Mapping[str, Pathlike],
        out: Pathlike,
        *,
        transform: str | None = None,
        shuffle_layers: bool = False,
        seed: int = 42,
        dtype: str = "fp32",
        rate: float | None = None,
        bits: int | None = None,
        buckets: int | None = None,
        group: str | int = "row",
        exact: bool = False,
        room: int | None = None,
        mask: str | None = None,
        keep: float | None = None,
        drop_large: float | None = None,
        residual: float = 0.0,
        lam: float = 1.0,
        weights: Mapping[str, float] | None = None,
        calibration: Mapping[str, Pathlike | Calibration] | None = None,
        input_dims: Mapping[str, int] | None = None,
        allow_missing: Iterable[str] = (),
        force: bool = False,
        progress: bool = False,
    ) -> Superposition:
        """Compresses fine-tunes of one base into a store, tensor by tensor.

        Args:
            base: a Hugging Face folder or one safetensors file.
            models: name -> checkpoint tuned from the base. What it has otherwise is kept for it alone and
                comes back with it: tensors that the base lacks or has in another shape, integers that differ,
                further rows of an embedding, a config, chat template or tokenizer of its own.
            out: the folder to make.
            transform: "sign", "hadamard" or "none", as in :func:`pydelta.superpose`; by default "sign", the
                faster one, and with codes "hadamard", which makes their errors noise whatever the delta is.
                "auto" takes the other of the two for tensors where, by a sample of rows, it leaves less than
                0.9 of the outputs' error; calibrations make the sample truer.
            shuffle_layers: let every model's layers change places among layers of one kind.
            seed: of all random signs and places, in [0, 2**64).
            dtype: of sums in full: "fp32" (one model comes back exactly) or "bf16" (half the bytes).
            rate: bits per parameter and model, which chooses ``bits`` and ``buckets``: 16 (one sum in full,
                the default), 4, 2, 1 (every model has codes of its own), 0.5, 0.25 or 0.125 (2, 4 or 8
                models share one-bit codes).
            bits: of codes in the place of sums: 1, 2, 4 or 8.
            buckets: over how many sums the models are spread, so that their norms balance; 1 by default.
            group: with codes, "row" or the number of elements that share a scale.
            exact: keep the sum in 32-bit fixed point: adding and removing models is exact in any order.
            room: models that codes or an exact sum may hold; by default 1 / rate, the largest bucket, or 64.
            mask: what of every superposed delta is summed, also of models that are added later: "magnitude"
                (the largest elements), "breadcrumbs" (Model Breadcrumbs, arXiv 2312.06795: the largest but
                the very largest) or "random" (DARE, arXiv 2311.03099: what stays is divided by ``keep``); by
                default all of it.
            keep: the fraction of a tensor's elements that the mask keeps, in (0, 1].
            drop_large: the fraction of the largest that breadcrumbs drop; by default 0.01.
            residual: the fraction of a superposed tensor's elements, in [0, 1), that is kept exactly for each
                model, also those that are added later: where, when it joins, what is retrieved would be
                farthest from the tuned model. Retrieval writes the tuned model's own elements there.
            lam: lambda, the factor of a retrieved delta; 1 is unbiased.
            weights: model -> factor of its delta in the sum, positive, 1 by default; :meth:`retrieve` divides
                by it, so a heavier model comes back cleaner, at the cost of the others.
            calibration: model -> a calibration of the tuned model, or its file, made with
                ``Calibrator(model, base=...)``: lambda is multiplied, tensor by tensor, with the factor that
                is best in output space, and with 1 for tensors and models without one.
            input_dims: shell patterns of tensor names -> input axis, where it is not the last one. Layers of
                GPT-2's kind, whose weights are (in, out), are known by the config's ``model_type``.
            allow_missing: shell patterns of tensors of the base that a model may lack; it comes back without
                them. Buffers and weights that the base holds twice may be missing in any case.
            force: replace an existing store.
            progress: draw a bar on stderr if that is a terminal.

        Raises:
            TypeError: an argument of a wrong kind.
            ValueError: an argument of a wrong value, checkpoints that do not fit (every difference is
                listed), NaN or Inf in a tensor, an existing ``out`` without ``force``. Nothing is left under
                ``out``.
            OSError: a file cannot be read or written.
        """
        from pydelta.superposition.format.mask import Masking
        from pydelta.superposition.writing.create import create
        from pydelta.superposition.writing.options import FormArguments, Options

        options = Options.of(
            models,
            FormArguments(dtype, rate, bits, buckets, group, exact, room),
            transform=transform,
            masking=Masking(mask, keep, drop_large),
            weights=weights,
            calibrations=calibration,
            input_dims=input_dims,
            shuffle_layers=shuffle_layers,
            seed=seed,
            lam=lam,
            residual=residual,
            allow_missing=tuple(allow_missing),
        )
        path = create(base, models, out, options, force=force, show=progress)
        return cls.open(path)

    @classmethod
    def open(cls, path: Pathlike) -> Superposition:
        """Opens a store, as it is now: what others add to it or remove later does not show.

        Raises:
            OSError: it cannot be read, or there is none.
            ValueError: it or one of its files is not sound, or of a newer version of the format.
        """
        store = Path(path)
        if not store.is_dir():
            raise FileNotFoundError(f"{store}: not a store: no such folder")
        with locked(store, shared=True):
            return cls(store, StoreFiles(store, read_manifest(store)))

    @overload
    def retrieve(
        self,
        name: str,
        out: None = None,
        *,
        base: Pathlike | None = None,
        lam: float | None = None,
        out_dtype: str = "base",
        force: bool = False,
        progress: bool = False,
    ) -> dict[str, torch.Tensor]: ...

    @overload
    def retrieve(
        self,
        name: str,
        out: Pathlike,
        *,
        base: Pathlike | None = None,
        lam: float | None = None,
        out_dtype: str = "base",
        force: bool = False,
        progress: bool = False,
    ) -> Path: ...

    def retrieve(
        self,
        name: str,
        out: Pathlike | None = None,
        *,
        base: Pathlike | None = None,
        lam: float | None = None,
        out_dtype: str = "base",
        force: bool = False,
        progress: bool = False,
    ) -> Path | dict[str, torch.Tensor]:
        """Gets one model back: base + lam * T^-1(S), lam times the calibrated factors where there are some.

        Args:
            name: of the model.
            out: one file if it ends in ``.safetensors``, else a folder with the base's shards, config and
                tokenizer. None: the state dict is returned.
            base: where the store's base is; by default where it was.
            lam: lambda, instead of the store's.
            out_dtype: "base", or "model" for the model's own floating dtypes.
            force: replace an existing ``out``.
            progress: draw a bar on stderr if that is a terminal.

        Returns:
            The path written, or name -> tensor.

        Raises:
            TypeError: an argument of a wrong kind.
            ValueError: an unknown model, another base than the store's (its bytes are compared by
                SHA-256), an existing ``out`` without ``force``, or a store that is not sound. Nothing is left
                under ``out``.
            OSError: a file cannot be read or written.
        """
        from pydelta.superposition.reading.retrieve import Retrieval

        retrieval = Retrieval(self.path, self.files, name, base, lam, out_dtype=out_dtype)
        if out is None:
            return retrieval.to_memory(show=progress)
        return retrieval.to_files(out, force=force, show=progress)

    def add(
        self,
        name: str,
        path: Pathlike,
        *,
        base: Pathlike | None = None,
        weight: float = 1.0,
        calibration: Pathlike | Calibration | None = None,
        allow_missing: Iterable[str] = (),
        progress: bool = False,
    ) -> Superposition:
        """Adds a model to the store on disk; the others' codes and sums stay, or get its delta added.

        A low-bit store adds it to its open bucket, whose codes are made anew from the sum in full, or begins
        a bucket. A sum in full is rounded once more; an exact one is what it would be in any order.

        Args:
            name: of the model, which the store must not hold.
            path: a checkpoint tuned from the base; what it has otherwise is kept as :meth:`create` keeps it.
            base: where the store's base is; by default where it was.
            weight: factor of its delta in the sum.
            allow_missing: as in :meth:`create`.
            calibration: as in :meth:`create`, of this model. The others' factors stay: what the new delta
                adds to their interference makes them a little too large.
            progress: draw a bar on stderr if that is a terminal.

        Returns:
            The store as it is then; this one stays what it was.

        Raises:
            TypeError: an argument of a wrong kind.
            ValueError: the name is taken, the checkpoint does not fit, NaN or Inf, another base than the
                store's, no room, or a store of version 1. The store is as it was.
            OSError: a file cannot be read or written.
        """
        from pydelta.superposition.writing.change import add

        options = {"weight": weight, "calibration": calibration, "allow_missing": allow_missing}
        add(self.path, name, path, base=base, show=progress, **options)  # type: ignore[arg-type]
        return self.open(self.path)

    def remove(
        self, name: str, path: Pathlike, *, base: Pathlike | None = None, progress: bool = False
    ) -> Superposition:
        """Takes a model out of the store on disk.

        From an exact sum exactly; from a sum in fp32 or bf16 up to rounding. Codes can lose a model while
        their bucket is open, or with all of a bucket whose only model it is.

        Args:
            name: of the model.
            path: the checkpoint that was added; its fingerprint is compared.
            base, progress: as in :meth:`add`.

        Returns:
            The store as it is then; this one stays what it was.

        Raises:
            ValueError: an unknown model, the only one, another checkpoint than was added, a sealed bucket,
                another base, or a store of version 1. The store is as it was.
            OSError: a file cannot be read or written.
        """
        from pydelta.superposition.writing.change import remove

        remove(self.path, name, path, base=base, show=progress)
        return self.open(self.path)

    def seal(self) -> Superposition:
        """Drops the sum in full that lies beside the codes of the open bucket; the next model begins another.

        Returns:
            The store as it is then.

        Raises:
            ValueError: the store has no codes, or is of version 1.
            OSError: it cannot be written to.
        """
        from pydelta.superposition.writing.change import seal

        seal(self.path)
        return self.open(self.path)

    @staticmethod
    def verify(path: Pathlike, *, base: Pathlike | None = None, progress: bool = False) -> list[str]:
        """Reads all of a store and compares it with its digests.

        Args:
            path: of the store.
            base: compare this base with the store's as well.
            progress: draw a bar on stderr if that is a terminal.

        Returns:
            What is wrong, one sentence each, with file and tensor; empty for a sound store. Stores of version
            1 have no digests: theirs are only held against ``store.json`` and looked through for NaN and Inf.

        Raises:
            OSError: there is no store.
            ValueError: ``store.json`` is not sound, or of a newer version.
        """
        from pydelta.superposition.reading.verify import verify

        return verify(Path(path), base, show=progress)

    def export(
        self,
        out: Pathlike,
        names: Sequence[str] | None = None,
        *,
        base: Pathlike | None = None,
        out_dtype: str = "base",
        progress: bool = False,
    ) -> list[Path]:
        """Writes models as Hugging Face folders below a new folder, all or none.

        Args:
            out: the folder to make.
            names: of the models; default all.
            base, out_dtype, progress: as in :meth:`retrieve`.

        Returns:
            The models' folders; their names are the models', with bytes outside ``A-Za-z0-9._-`` as ``%XX``.

        Raises:
            ValueError, OSError: as :meth:`retrieve`.
        """
        from pydelta.superposition.reading.export import export

        chosen = self.models if names is None else list(dict.fromkeys(names))
        return export(self.path, self.files, out, chosen, base=base, out_dtype=out_dtype, show=progress)

    def attach(
        self,
        module: torch.nn.Module,
        *,
        base: Pathlike | None = None,
        prefix: str | None = None,
        resident: bool | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> Bank:
        """Maps the store onto a live module, whose weights then become any of the models.

        The arguments and errors are those of :class:`Bank`, which has ``activate``, ``use``, ``serve`` and
        ``models``; these refuse models that have other tensors or shapes than the base, by name.
        """
        from pydelta.superposition.serving import Bank

        return Bank(self, module, base=base, prefix=prefix, resident=resident, rename=rename)
