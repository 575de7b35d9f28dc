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
            a new head for instance, is not pulled. DTensors (FSDP2) need bases spread as they are.
        lr, betas, eps: Adam's.
        weight_decay: strength of the pull. 0: this is torch's Adam.
        l1: pull by the sign of w - base.
        vbar: "exact", or "previous": last step's, which saves the reading of the gradients.
        masters: fp32 weights behind 16-bit parameters, in the state; these are updated and rounded.

    Raises:
        TypeError: a number is no number, or ``base`` neither dict nor list.
        ValueError: a number is out of range, or a base does not fit: all are named at once.
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
        self._base = match("AdamR", self.param_groups, base)
        for group in self.param_groups:
            for p in group["params"]:
                if masters and p.dtype in (torch.bfloat16, torch.float16):
                    self.state[p]["master"] = local(p).to(torch.float32)

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
        return loss

    def _ready(self, group: dict[str, Any]) -> Iterable[list[torch.Tensor]]:
        """Parameters with gradients, by device, kind of master and number of steps, which goes up by one."""
        members: dict[Any, list[torch.Tensor]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.layout is not torch.strided:
                raise ValueError(f"[AdamR] gradients must be dense, got {p.grad.layout}")
            state = self.state[p]
            if "step" not in state:
                like = local(p)
                dtype = check.compute_dtype(like.dtype)
                state["step"] = 0
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name] = torch.zeros_like(like, dtype=dtype, memory_format=torch.contiguous_format)
            members.setdefault((p.device, "master" in state, state["step"], *spread(p)), []).append(p)
        for params in members.values():
            for p in params:
                self.state[p]["step"] += 1
        return members.values()

    def _lacks_sums(self) -> bool:
        """Nothing is counted yet, or some parameter's steps so far were not."""
        states = [self.state.get(p, {}) for group in self.param_groups for p in group["params"]]
        counted = ["square_sum" in state for state in states]
        late = (state.get("step", 0) > 1 and not has for state, has in zip(states, counted, strict=True))
        return not any(counted) or any(late)

    def _count(self, group: dict[str, Any], params: list[torch.Tensor], squares: torch.Tensor) -> None:
        """This step's gradients, by the sums of their squares, into the sums of v."""
        two = group["betas"][1]
        squares = squares * (1 - two)
        if self.state[params[0]]["step"] > 1:
            squares += two * torch.stack([self._sum(p) for p in params])
        for p, part in zip(params, squares.unbind(), strict=True):
            self.state[p].update(square_sum=part, counted=self.state[p]["step"])

    def _sum(self, p: torch.Tensor) -> torch.Tensor:
        """The sum of v before this step: kept, or taken once where the pull begins later than training."""
        state = self.state[p]
        kept: torch.Tensor | None = state.get("square_sum")
        return state["exp_avg_sq"].sum(dtype=torch.float64) if kept is None else kept

    def _forget(self, params: list[torch.Tensor]) -> None:
        """Without a pull nothing is counted, and what was is out of date."""
        for p in params:
            self.state[p].pop("square_sum", None)
            self.state[p].pop("counted", None)

    def _vbar(self) -> torch.Tensor:
        """0-D float64; 1 where all gradients so far were zero."""
        members: dict[Any, list[tuple[torch.Tensor, float]]] = {}
        count = 0
        for group in self.param_groups:
            for p in group["params"]:
                if "square_sum" in self.state.get(p, {}):
                    share = 1 / (1 - group["betas"][1] ** self.state[p]["counted"])
                    members.setdefault((p.device, *spread(p)), []).append(
                        (self.state[p]["square_sum"], share)
                    )
                    count += p.numel()
        sums: torch.Tensor | None = None
        for (_, mesh, dims), rows in members.items():
            parts = torch._foreach_mul([x for x, _ in rows], [share for _, share in rows])
            part = over_shards(total(torch.stack(parts)), mesh, dims)
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
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            step=states[0]["step"],
            lr=float(group["lr"]),
            betas=group["betas"],
            eps=group["eps"],
            bases=bases,
            pull=pull,
            l1=group["l1"],
            masters=[state["master"] for state in states] if "master" in states[0] else None,
            sums=counts,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but moments, sums and masters keep their own dtypes beside 16-bit parameters."""
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, torch.Tensor):
                    self.state[p][name] = value.detach().to(p.device, copy=True)


def _gradient(p: torch.Tensor) -> torch.Tensor:
    grad = gradient(p)
    assert grad is not None
    return grad
