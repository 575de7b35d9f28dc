"""What a fine-tune has otherwise than its base, by headers and by the bytes of what is not computed with."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.quantised.kinds import is_index, same_bytes
from pydelta.checkpoint.tensor_names import FLOATS
from pydelta.superposition.format.departures import Departures
from pydelta.superposition.format.rules import BASE, SUPERPOSED, TIED, Rule, is_vocabulary, same_numbers

_BUFFERS = (
    "*rotary_emb.inv_freq",
    "*.attn.bias",
    "*.attn.masked_bias",
    "*.attention.bias",
    "*.attention.masked_bias",
)
"""What older checkpoints hold and newer code neither reads nor writes."""


def departures(
    base: Checkpoint,
    models: Mapping[str, Checkpoint],
    rules: Mapping[str, Rule],
    allow_missing: Iterable[str] = (),
) -> dict[str, Departures]:
    """Model -> in what it departs from the base.

    Args:
        allow_missing: shell patterns of tensors of the base that a model may lack.

    Raises:
        ValueError: models lack other tensors, or have nothing of the base; every problem is listed.
        OSError: a file cannot be read.
    """
    patterns = [allow_missing] if isinstance(allow_missing, str) else list(allow_missing)
    problems = []
    for model in models.values():
        absent = _absent(base, model, rules, patterns)
        if absent:
            problems.append(
                f"{model.path} lacks tensors of the base: {', '.join(absent)}; "
                "--allow-missing PATTERN (allow_missing=) takes models without them"
            )
        elif base.names and not any(name in base.tensors for name in model.names):
            problems.append(f"{model.path} has no tensor of the base's names")
    if problems:
        raise ValueError("; ".join(problems))
    return {name: _departures(base, model, rules) for name, model in models.items()}


def _absent(
    base: Checkpoint, model: Checkpoint, rules: Mapping[str, Rule], patterns: Sequence[str]
) -> list[str]:
    """Tensors that the model must have and lacks."""
    return [
        name
        for name in base.names
        if name not in model.tensors
        and rules[name].rule not in (BASE, TIED)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in (*_BUFFERS, *patterns))
        and not _stands_twice(base, model, name)
    ]


def _stands_twice(base: Checkpoint, model: Checkpoint, name: str) -> bool:
    """Whether the base has the same bytes under a name that the model has: a tied weight stored twice."""
    return any(same_numbers(base, name, other) for other in base.names if other in model.tensors)


def _departures(base: Checkpoint, model: Checkpoint, rules: Mapping[str, Rule]) -> Departures:
    own = {name: info for name, info in model.tensors.items() if name not in base.tensors}
    dtypes, rows = {}, {}
    lengths = _vocabularies(base, model)
    for name, mine in base.tensors.items():
        theirs, rule = model.tensors.get(name), rules[name]
        if theirs is None or (rule.rule == BASE and _is_base(base, model, name)):
            continue
        if rule.tied is not None:
            if rule.tied not in model.tensors or not same_numbers(model, rule.tied, name):
                own[name] = theirs
            continue
        alike = (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        if alike and rule.rule != BASE:
            continue
        if rule.rule != SUPERPOSED or theirs.dtype not in FLOATS or not _common(mine, theirs, rule, lengths):
            own[name] = theirs
            continue
        if theirs.dtype != mine.dtype:
            dtypes[name] = theirs.dtype
        if theirs.shape != mine.shape:
            rows[name] = theirs.shape[0]
    lacks = frozenset(name for name in base.names if name not in model.tensors)
    return Departures(own, lacks, dtypes, rows)


def _is_base(base: Checkpoint, model: Checkpoint, name: str) -> bool:
    """Whether what is not computed with is the base's: byte for byte, or an index of the same numbers."""
    if same_bytes(base, model, name):
        return True
    mine, theirs = base.tensors[name], model.tensors[name]
    index = is_index(name) or mine.dtype in FLOATS
    if mine.dtype == theirs.dtype or mine.shape != theirs.shape or not index:
        return False
    a, b = base.tensor(name), model.tensor(name)
    return bool((a.double() == b.double()).all())


def _vocabularies(base: Checkpoint, model: Checkpoint) -> set[tuple[int, int]]:
    """(rows in the base, rows in the model) of embeddings, by their names."""
    return {
        (mine.shape[0], theirs.shape[0])
        for name, mine in base.tensors.items()
        if (theirs := model.tensors.get(name)) is not None
        and len(mine.shape) == len(theirs.shape) == 2
        and mine.shape[0] != theirs.shape[0]
        and is_vocabulary(name)
    }


def _common(mine: TensorInfo, theirs: TensorInfo, rule: Rule, lengths: set[tuple[int, int]]) -> bool:
    """Whether the leading rows that both have stand for the same words, or the shapes agree."""
    if mine.shape == theirs.shape:
        return True
    grown = len(mine.shape) == 2 and mine.shape[1:] == theirs.shape[1:] and bool(rule.dim)
    return grown and theirs.shape[0] > 0 and (mine.shape[0], theirs.shape[0]) in lengths


def with_files(departs: Departures, files: Mapping[str, bytes]) -> Departures:
    """With the digests of the model's own small files."""
    return dataclasses.replace(
        departs, files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    )
