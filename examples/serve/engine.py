"""A store on a transformers model: batches of texts, each for a model of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from pydelta import Superposition, hf


class Row(NamedTuple):
    """One request: a model's name and tokens."""

    model: str
    ids: list[int]


@dataclass
class Counts:
    """What has been served."""

    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    batches: int = 0
    rows: int = 0
    swaps_saved: int = 0
    largest: int = 0


class Engine:
    """Runs mixed batches.

    Args:
        store: the store's folder.
        base: where its base is; by default where it was.
    """

    def __init__(self, store: str, base: str | None = None) -> None:
        opened = Superposition.open(store)
        self.model, self.tokenizer = hf.load(opened, opened.models[0], base=base)
        self.bank = opened.attach(self.model, base=base)
        self.bank.serve()
        self.names = opened.models
        self.counts = Counts()
        config: Any = self.model.config
        self.vocabulary = int(config.vocab_size)
        self.longest = int(getattr(config, "max_position_embeddings", 1 << 20))

    def tokens(self, text: str | None, ids: list[int] | None) -> list[int]:
        """The tokens of a request.

        Raises:
            ValueError: there are none, or they do not fit the model.
        """
        if (text is None) == (ids is None):
            raise ValueError("give text or input_ids, one of them")
        if ids is None:
            if self.tokenizer is None:
                raise ValueError("the base has no tokenizer: give input_ids")
            ids = self.tokenizer(text)["input_ids"]
        if not 1 <= len(ids) <= self.longest:
            raise ValueError(f"input_ids must hold 1 to {self.longest} tokens, got {len(ids)}")
        wrong = [i for i in ids if not 0 <= i < self.vocabulary]
        if wrong:
            raise ValueError(f"input_ids must lie in [0, {self.vocabulary - 1}], got {wrong[0]}")
        return ids

    def run(self, rows: list[Row]) -> list[list[float]]:
        """The logits of each row: a classifier's, or those of the token after the last."""
        length = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            mask[i, : len(row.ids)] = 1
        with torch.inference_mode(), self.bank.models([row.model for row in rows]):
            logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
        if logits.dim() == 3:
            logits = logits[torch.arange(len(rows)), mask.sum(1) - 1]
        self._count(rows)
        scores: list[list[float]] = logits.tolist()
        return scores

    def _count(self, rows: list[Row]) -> None:
        counts = self.counts
        counts.requests.update(row.model for row in rows)
        counts.batches += 1
        counts.rows += len(rows)
        counts.largest = max(counts.largest, len(rows))
        # One model at a time would have had to write the weights for each but the first.
        counts.swaps_saved += len({row.model for row in rows}) - 1
