"""AdamR: Adam whose weights are pulled towards the base, so that deltas stay small."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from pydelta.core import check
from pydelta.ops import adamr_step_, square_sums
from pydelta.ops._lists import at_least_zero, total
from pydelta.ops.adamr_step_ import adam_numbers
from pydelta.optim._bases import Bases, match
from pydelta.optim._sharded import gradient, local, over_shards, spread
from pydelta.optim._state import check_parameters, checked_state, only_makes_state

VBAR = ("exact", "previous")


class AdamR(torch.optim.Optimizer):
    """AdamR (DAREx, arXiv 2410.09344): before Adam's step, w <- w - lr wd / vbar (w - base).

    vbar is the square root of the mean of v / (1 - b2^t) over all elements of all tensors; it makes the pull
    as strong as the step. The sum of v is kept from step to step in fp64, v' = b2 v + (1 - b2) g^2 summed
    over a tensor, so that it costs one reading of the gradients and not one of v, and no host
    synchronisation. Where nothing is pulled nothing is summed.

    Args:
        params: parameters, ``model.named_parameters()``, or groups of either.
        base: what they are pulled towards: name -> tensor (a state_dict does) where parameters have names,
            else a list with a tensor or None for each. Read in its own dtype, never copied. What has no base,
            a new head for instance, is not pulled. DTensors (FSDP2) need bases spread as they are. Names are
            compared without the prefixes of torch.compile, DistributedDataParallel and FSDP.
        lr, betas, eps: Adam's.
        weight_decay: strength of the pull. 0: this is torch's Adam.
        l1: pull by the sign of w - base.
        vbar: "exact", or "previous": last step's, which saves the reading of the gradients.
        masters: fp32 weights behind 16-bit parameters, made with the moments at the first step; these are
            updated and rounded. Weights that are loaded between steps become the masters' values.

    Attributes:
        pulled: the names of the parameters that have a base; "parameter 3" where there are no names.

    Copies (copy.deepcopy, pickle) have bases of their own. The state goes through
    torch.distributed.checkpoint.

    Raises:
        TypeError: a number is no number, ``base`` neither dict nor list, or a parameter complex.
        ValueError: a number is out of range, or a base does not fit, lies in a parameter's memory or has
            none of the names: all are named at once.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Bases,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
        l1: bool = False,
        vbar: str = "exact",
        *,
        masters: bool = True,
    ) -> None:
        adam_numbers("AdamR", lr, betas, eps)
        at_least_zero("AdamR", "weight_decay", weight_decay)
        self.vbar = check.choice("AdamR", "vbar", vbar, VBAR)
        self.masters = check.flag("AdamR", "masters", masters)
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "l1": check.flag("AdamR", "l1", l1)})
        check_parameters("AdamR", self.param_groups)
        self._base, self.pulled = match("AdamR", self.param_groups, base)
        self._versions: dict[torch.Tensor, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        own = {name: self.__dict__[name] for name in ("_base", "pulled", "vbar", "masters")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._versions = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: recomputes the gradient and returns the loss.

        Returns:
            What the closure returned.

        Raises:
            ValueError: a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        elif only_makes_state(self):
            for p in [p for group in self.param_groups for p in group["params"] if p.grad is not None]:
                self._begin(p)
            return loss
        groups = [(group, params) for group in self.param_groups for params in self._ready(group)]
        pulled = bool(self._base) and any(group["weight_decay"] for group, _ in groups)
        counts_first = pulled and (self.vbar == "exact" or self._lacks_sums())
        if counts_first:
            for group, params in groups:
                self._count(group, params, square_sums([_gradient(p) for p in params]))
        vbar = self._vbar() if pulled and groups else None
        for group, params in groups:
            counts = pulled and not counts_first
            sums = self._advance(group, params, vbar, counts)
            if counts:
                self._count(group, params, sums)
            elif not pulled:
                self._forget(params)
            self.mark(params)
        return loss

    def _ready(self, group: dict[str, Any]) -> Iterable[list[torch.Tensor]]:
        """Parameters with gradients, by device, kind of master and number of steps, which goes up by one."""
        members: dict[Any, list[torch.Tensor]] = {}
        for p in dict.fromkeys(group["params"]):
            if p.grad is None:
                continue
            if p.grad.layout is not torch.strided:
                raise ValueError(f"[AdamR] gradients must be dense, got {p.grad.layout}")
            state = self._begin(p)
            members.setdefault((p.device, "master" in state, state["step"], *spread(p)), []).append(p)
        for params in members.values():
            for p in params:
                self.state[p]["step"] += 1
        return members.values()

    def _begin(self, p: torch.Tensor) -> dict[str, Any]:
        """A parameter's state, spread as the parameter is; the same names for all, so that a checkpoint's
        state finds its like in a fresh optimizer."""
        state: dict[str, Any] = self.state[p]
        if "step" not in state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                zeros = torch.zeros_like(p, dtype=check.compute_dtype(p.dtype), requires_grad=False)
                state[name] = zeros if hasattr(zeros, "to_local") else zeros.contiguous()
            if self._base:
                zero = torch.zeros((), dtype=torch.float64, device=p.device)
                state.update(square_sum=zero, counted=0)
        if self.masters and "master" not in state and p.dtype in (torch.bfloat16, torch.float16):
            state["master"] = p.detach().to(torch.float32)
        self.master(p)
        return state

    def master(self, p: torch.Tensor) -> torch.Tensor | None:
        """This process's part of the fp32 value behind a parameter, if there is one. Where others have
        written the parameter since the last step (weights that were loaded), theirs is the value."""
        master: torch.Tensor | None = self.state.get(p, {}).get("master")
        if master is None:
            return None
        weight, part = local(p), local(master)
        if self._versions.get(p) != weight._version:
            part.copy_(torch.where(part.to(weight.dtype) == weight, part, weight.to(part.dtype)))
            self.mark([p])
        return part

    def mark(self, params: Iterable[torch.Tensor]) -> None:
        """The parameters are as their masters have them."""
        for p in params:
            if "master" in self.state.get(p, {}):
                self._versions[p] = local(p)._version

    def _lacks_sums(self) -> bool:
        """Nothing is counted yet, or some parameter's steps so far were not."""
        states = [self.state.get(p, {}) for group in self.param_groups for p in group["params"]]
        counted = [state.get("counted", 0) > 0 for state in states]
        late = (state.get("step", 0) > 1 and not has for state, has in zip(states, counted, strict=True))
        return not any(counted) or any(late)

    def _count(self, group: dict[str, Any], params: list[torch.Tensor], squares: torch.Tensor) -> None:
        """This step's gradients, by the sums of their squares, into the sums of v."""
        two = group["betas"][1]
        squares = over_shards(squares * (1 - two), *spread(params[0]))
        if self.state[params[0]]["step"] > 1:
            squares += two * torch.stack([self._sum(p) for p in params])
        for p, part in zip(params, squares.unbind(), strict=True):
            self.state[p].update(square_sum=part, counted=self.state[p]["step"])

    def _sum(self, p: torch.Tensor) -> torch.Tensor:
        """The sum of v before this step: kept, or taken once where the pull begins later than training."""
        state = self.state[p]
        if state.get("counted", 0) > 0:
            kept: torch.Tensor = state["square_sum"]
            return kept
        return over_shards(_part(state["exp_avg_sq"]).sum(dtype=torch.float64), *spread(p))

    def _forget(self, params: list[torch.Tensor]) -> None:
        """Without a pull nothing is counted, and what was is out of date."""
        for p in params:
            if "counted" in self.state[p]:
                self.state[p]["counted"] = 0

    def _vbar(self) -> torch.Tensor:
        """0-D float64; 1 where all gradients so far were zero."""
        members: dict[torch.device, list[tuple[torch.Tensor, float]]] = {}
        count = 0
        for group in self.param_groups:
            for p in dict.fromkeys(group["params"]):
                state = self.state.get(p, {})
                if state.get("counted", 0) > 0:
                    share = 1 / (1 - group["betas"][1] ** state["counted"])
                    members.setdefault(p.device, []).append((state["square_sum"], share))
                    count += p.numel()
        sums: torch.Tensor | None = None
        for rows in members.values():
            parts = torch._foreach_mul([x for x, _ in rows], [share for _, share in rows])
            part = total(torch.stack(parts))
            sums = part if sums is None else sums + part.to(sums.device)
        assert sums is not None
        mean = sums / max(count, 1)
        return torch.where(mean > 0, mean.sqrt(), 1.0)

    def _advance(
        self, group: dict[str, Any], params: list[torch.Tensor], vbar: torch.Tensor | None, counts: bool
    ) -> torch.Tensor:
        states = [self.state[p] for p in params]
        pulls = vbar is not None and group["weight_decay"] > 0
        bases = [local(self._base[p]) if p in self._base else None for p in params] if pulls else None
        pull = None
        if pulls and vbar is not None:
            pull = (group["lr"] * group["weight_decay"] / vbar).to(params[0].device)
        return adamr_step_(
            [local(p) for p in params],
            [_gradient(p) for p in params],
            [_part(state["exp_avg"]) for state in states],
            [_part(state["exp_avg_sq"]) for state in states],
            step=states[0]["step"],
            lr=float(group["lr"]),
            betas=group["betas"],
            eps=group["eps"],
            bases=bases,
            pull=pull,
            l1=group["l1"],
            masters=[_part(state["master"]) for state in states] if "master" in states[0] else None,
            sums=counts,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but moments, sums and masters keep their own dtypes beside 16-bit parameters.

        Raises:
            ValueError: the parameters stand in another order, as far as names and shapes tell.
        """
        state_dict = checked_state("AdamR", self, state_dict)
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, torch.Tensor):
                    self.state[p][name] = value.detach().to(p.device, copy=True)


def _part(x: torch.Tensor) -> torch.Tensor:
    """This process's part of state."""
    return local(x) if hasattr(x, "to_local") else x


def _gradient(p: torch.Tensor) -> torch.Tensor:
    grad = gradient(p)
    assert grad is not None
    return grad
