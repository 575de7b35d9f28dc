"""What optimizers share that move the weights for one backward pass and bring them back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pydelta.ops import sam_restore_
from pydelta.optim._sharded import gradient, local
from pydelta.optim._state import check_parameters, checked_state, only_makes_state
from pydelta.optim.adamr import AdamR


@dataclasses.dataclass
class Moved:
    """A perturbed weight. ``owner``: what users hold, of which ``weight`` is this process's part;
    ``source``: what it comes back from. Nothing else may write it meanwhile."""

    owner: torch.Tensor
    weight: torch.Tensor
    source: torch.Tensor
    version: int = 0
    address: int = 0

    def mark(self) -> None:
        self.version, self.address = self.weight._version, self.weight.data_ptr()

    def changed(self) -> bool:
        weight = local(self.owner)
        return weight.data_ptr() != self.address or self.weight._version != self.version


class Number:
    """A number that every parameter group holds under a name of its own, so that whatever saves the groups
    saves it. Read from the first group, written to all."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __get__(self, optimizer: Perturbing, kind: type) -> Any:
        return optimizer.param_groups[0][self.key]

    def __set__(self, optimizer: Perturbing, value: Any) -> None:
        for group in optimizer.param_groups:
            group[self.key] = value


class Perturbing(torch.optim.Optimizer):
    """Wraps an optimizer: its parameter groups, state and ``state_dict`` are the wrapped one's.

    Args:
        base_optimizer: takes the steps.
        copies: fp32 parameter of ``base_optimizer`` -> the 16-bit weight that forward and backward use. These
            are perturbed from their fp32 masters, take the gradient, and follow the masters after a step.
    """

    _KEPT: tuple[str, ...] = ()  # attributes that a copy has beside the wrapped optimizer

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        copies: Mapping[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self._name = type(self).__name__
        if not isinstance(base_optimizer, torch.optim.Optimizer):
            got = type(base_optimizer).__name__
            raise TypeError(f"[{self._name}] base_optimizer must be a torch.optim.Optimizer, got {got}")
        self.base_optimizer = base_optimizer
        check_parameters(self._name, base_optimizer.param_groups)
        self.copies = dict(copies or {})
        self._begin()
        groups = [{"params": list(dict.fromkeys(group["params"]))} for group in base_optimizer.param_groups]
        super().__init__(groups, {})
        self._share()

    def _begin(self) -> None:
        """Nothing is perturbed."""
        self._moved: list[Moved] = []
        self._held: list[torch.Tensor] = []
        self._backups: dict[torch.Tensor, torch.Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        if self._moved:
            raise RuntimeError(f"[{self._name}] a copy must not be made while the weights are perturbed")
        kept = {name: self.__dict__[name] for name in ("_name", "base_optimizer", "copies", *self._KEPT)}
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin()
        super().__setstate__(state)
        self._share()

    def _numbers(self) -> dict[str, Number]:
        """The numbers that the groups hold, by their attributes' names."""
        return {name: x for name, x in vars(type(self)).items() if isinstance(x, Number)}

    def _share(self) -> None:
        """One set of groups and one state for both; loading a state_dict makes new ones."""
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = self.base_optimizer.defaults

    def _params(self) -> Iterator[torch.Tensor]:
        """Each once, though torch only warns of one that a group has twice."""
        for group in self.base_optimizer.param_groups:
            yield from dict.fromkeys(group["params"])

    def _weight(self, p: torch.Tensor) -> torch.Tensor:
        """What forward and backward use of a parameter."""
        return self.copies.get(p, p)

    def _master(self, p: torch.Tensor) -> torch.Tensor | None:
        """The fp32 value behind a 16-bit weight, where there is one."""
        if p in self.copies:
            return local(p)
        if isinstance(self.base_optimizer, AdamR):
            master = self.base_optimizer.master(p)
        else:
            master = self.base_optimizer.state.get(p, {}).get("master")
        if master is None:
            return None
        self._backups.pop(p, None)  # of the steps before there was a master
        return local(master)

    def _with_gradients(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(parameter, this process's part of its weight's gradient), for all that have one."""
        pairs = ((p, gradient(self._weight(p))) for p in self._params())
        return [(p, g) for p, g in pairs if g is not None]

    def _backup(self, p: torch.Tensor) -> torch.Tensor:
        """Memory for a weight, kept from step to step."""
        weight = local(self._weight(p))
        backup = self._backups.get(p)
        if backup is None or backup.shape != weight.shape or backup.dtype is not weight.dtype:
            backup = self._backups[p] = torch.empty_like(weight, memory_format=torch.contiguous_format)
        return backup

    def _hold(self, moved: list[Moved]) -> None:
        for one in moved:
            one.mark()
        self._moved, self._held = moved, list(self._params())

    def _come_back(self) -> None:
        """Weights as they were.

        Raises:
            RuntimeError: somebody changed weights meanwhile; those that kept their shape are back.
        """
        moved, held, self._moved, self._held = self._moved, self._held, [], []
        changed = [one for one in moved if one.changed()]
        back = [(local(one.owner), one.source) for one in moved]
        self._restore([(weight, source) for weight, source in back if weight.shape == source.shape])
        if isinstance(self.base_optimizer, AdamR):
            self.base_optimizer.mark(held)
        now = list(self._params())
        same = len(now) == len(held) and all(a is b for a, b in zip(now, held, strict=True))
        if changed or not same:
            what = f"{len(changed)} changed weights" if changed else "other parameters"
            raise RuntimeError(
                f"[{self._name}] parameters must stay as they are while they are perturbed, got {what}"
            )

    @staticmethod
    def _restore(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        devices: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for weight, source in pairs:
            devices.setdefault(weight.device, []).append((weight, source))
        for some in devices.values():
            sam_restore_(*map(list, zip(*some, strict=True)))

    def _makes_state(self) -> bool:
        """Whether a step without a closure is there to make the wrapped optimizer's state, and made it."""
        if not only_makes_state(self.base_optimizer):
            return False
        self.base_optimizer.step()
        return True

    def _base_step(self) -> None:
        """The wrapped optimizer's step, on masters where there are copies, which then follow."""
        for master, copy in self.copies.items():
            master.grad = None if copy.grad is None else copy.grad.to(master.dtype)
        self.base_optimizer.step()
        self._restore([(local(copy), local(master)) for master, copy in self.copies.items()])

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base_optimizer.zero_grad(set_to_none)
        for copy in self.copies.values():
            copy.grad = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "param_groups" in self.__dict__ and self.param_groups is self.base_optimizer.param_groups:
            self.base_optimizer.add_param_group(param_group)
            first, new = self.param_groups[0], self.param_groups[-1]
            for number in self._numbers().values():
                new.setdefault(number.key, first[number.key])
        else:
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, with this one's numbers in its groups.

        Raises:
            RuntimeError: the weights are perturbed now: a checkpoint would keep them so.
        """
        if self._moved:
            raise RuntimeError(f"[{self._name}] state_dict must not be taken while the weights are perturbed")
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The wrapped optimizer's, with this one's numbers; these stay where the state has none.

        Raises:
            ValueError: the parameters stand in another order, as far as names and shapes tell.
        """
        # States of earlier versions have the numbers beside the groups.
        numbers = {name: getattr(self, name) for name in self._numbers()} | state_dict.get("pydelta", {})
        of_base = {name: value for name, value in state_dict.items() if name != "pydelta"}
        self.base_optimizer.load_state_dict(checked_state(self._name, self.base_optimizer, of_base))
        self._share()
        for name, number in self._numbers().items():
            for group in self.param_groups:
                group.setdefault(number.key, numbers[name])
