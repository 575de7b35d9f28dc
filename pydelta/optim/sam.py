"""Sharpness-aware minimisation around any torch optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pydelta.core import check
from pydelta.ops import sam_perturb_
from pydelta.ops._lists import at_least_zero
from pydelta.optim._perturbing import Moved, Perturbing
from pydelta.optim._sharded import local, norm

Closure = Callable[[], Any]


class SAM(Perturbing):
    """SAM (arXiv 2010.01412) or, with ``adaptive``, ASAM (arXiv 2102.11600): the step takes the gradient at w
    + e, where the loss is about worst within ``rho``.

        optimizer = pydelta.optim.SAM(torch.optim.AdamW(model.parameters(), lr=1e-5), rho=0.05)
        optimizer.step(closure)          # the closure computes the whole gradient; it is called twice

    or by hand: gradient, ``first_step()``, gradient, ``second_step()``; each gradient over as many
    micro-batches as one likes. The norm runs over all parameters that have gradients, on all devices and, for
    DTensors (FSDP2), all processes; under DDP gradients are alike everywhere. Sparse gradients are perturbed
    as dense ones. Memory: one copy of the weights; none where fp32 masters stand behind 16-bit weights
    (:class:`AdamR`'s own, or ``copies``); 16-bit weights without masters swallow most of a small e.
    Parameters keep their ``data_ptr()``. The host waits once a step, to know whether the gradients were
    finite.

    Args:
        base_optimizer: takes the step with the second gradient.
        rho: the length of e; 0.05 for SAM, 0.5 for ASAM in their papers.
        adaptive, eta: ASAM, and what it adds to each weight's magnitude.
        max_norm: the second gradient is clipped to this norm.
        model: its BatchNorm layers keep their running statistics in the second pass.
        copies: fp32 parameter of ``base_optimizer`` -> 16-bit weight that forward and backward use.

    Attributes:
        skipped: steps that were not taken because a gradient held NaN or Inf.

    Raises:
        TypeError: ``base_optimizer`` is none, or a number is no number.
        ValueError: a negative number.
    """

    _OWN = ("rho", "adaptive", "eta", "max_norm", "skipped")

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.0,
        *,
        max_norm: float | None = None,
        model: nn.Module | None = None,
        copies: Mapping[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.rho, self.eta = at_least_zero("SAM", "rho", rho), at_least_zero("SAM", "eta", eta)
        self.adaptive = check.flag("SAM", "adaptive", adaptive)
        self.max_norm = None if max_norm is None else at_least_zero("SAM", "max_norm", max_norm)
        self.model, self.skipped = model, 0
        self._frozen: list[Any] = []
        self._norm: torch.Tensor | None = None
        self._replay: Closure | None = None
        super().__init__(base_optimizer, copies)

    @torch.no_grad()
    def first_step(self, zero_grad: bool = True) -> torch.Tensor:
        """To w + e, with the gradients at hand; freezes BatchNorm statistics.

        Returns:
            The norm that e was divided by, 0-D float64; where it is 0 or not finite, the weights stay.

        Raises:
            RuntimeError: no parameter has a gradient, or the weights are perturbed already.
        """
        if self._moved:
            raise RuntimeError("[SAM] first_step must be followed by second_step, got another first_step")
        pairs = self._with_gradients()
        if not pairs:
            raise RuntimeError("[SAM] first_step needs gradients, got none")
        params, grads = [p for p, _ in pairs], [g for _, g in pairs]
        weights = [local(self._weight(p)) for p in params]
        masters = [self._master(p) for p in params]
        scales = [w if m is None else m for w, m in zip(weights, masters, strict=True)]
        of = [self._weight(p) for p in params]
        self._norm = norm(of, grads, scales if self.adaptive else None, self.eta)
        moved = []
        for members in _alike(weights, masters):
            some = [[values[i] for i in members] for values in (weights, grads)]
            behind = [m for i in members if (m := masters[i]) is not None]
            sources = behind or [self._backup(params[i]) for i in members]
            kept = {"masters": sources} if behind else {"backups": sources}
            options: dict[str, Any] = {"rho": self.rho, "adaptive": self.adaptive, "eta": self.eta, **kept}
            sam_perturb_(*some, norm=self._norm.to(weights[members[0]].device), **options)
            moved += [Moved(of[i], weights[i], s) for i, s in zip(members, sources, strict=True)]
        self._hold(moved)
        self._freeze()
        if zero_grad:
            self.zero_grad()
        return self._norm

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, scaler: Any = None) -> bool:
        """Back to w, and the base optimizer's step with the gradient from w + e.

        Args:
            scaler: the ``torch.amp.GradScaler`` that both losses were scaled by; it unscales, and decides
                whether to step. ``scaler.update()`` is left to the caller.

        Returns:
            Whether the step was taken: not if either gradient held NaN or Inf.

        Raises:
            RuntimeError: there was no first_step, or parameters have changed since; weights are back then.
        """
        if not self._moved:
            raise RuntimeError("[SAM] second_step must follow first_step, got no first_step")
        self._thaw()
        self._come_back()
        first, self._norm = self._norm, None
        assert first is not None
        pairs = self._with_gradients()
        if scaler is not None:
            stepped = self._scaled_step(scaler, first)
        else:
            second = norm([self._weight(p) for p, _ in pairs], [g for _, g in pairs]) if pairs else first
            stepped = bool(first.isfinite() & second.isfinite().to(first.device))
            if stepped:
                self._clip(second)
                self._base_step()
        if not stepped:
            self._say_skipped()
        if zero_grad:
            self.zero_grad()
        return stepped

    def step(self, closure: Closure | None = None) -> Any:
        """Both steps.

        Args:
            closure: computes the whole gradient and returns the loss; called at w and at w + e, each time
                without gradients there. An exception in it leaves the weights at w.

        Returns:
            The loss at w.

        Raises:
            TypeError: no closure (an attached Trainer needs none).
        """
        if closure is None and self._replay is None:
            raise TypeError("[SAM] step needs a closure that computes the gradient, got None")
        loss = None
        if closure is not None:
            self.zero_grad()
            with torch.enable_grad():
                loss = closure()
        self.first_step()
        try:
            with torch.enable_grad():
                (closure or self._replay or _nothing)()
        except BaseException:
            self._thaw()
            self._come_back()
            raise
        self.second_step()
        return loss

    def _scaled_step(self, scaler: Any, first: torch.Tensor) -> bool:
        """A first gradient without a norm reaches the scaler through the second one."""
        if self.copies:
            raise RuntimeError("[SAM] a scaler must scale the base optimizer's gradients, got copies")
        grads = [p.grad for p in self._params() if p.grad is not None]
        if not bool(first.isfinite()) and grads:
            grads[0].fill_(torch.inf)
        scaler.unscale_(self.base_optimizer)
        pairs = self._with_gradients()
        second = norm([p for p, _ in pairs], [g for _, g in pairs])
        self._clip(second)
        scaler.step(self.base_optimizer)
        return bool(second.isfinite())

    def _clip(self, second: torch.Tensor) -> None:
        if self.max_norm is None:
            return
        factor = (self.max_norm / (second + 1e-6)).clamp(max=1.0)
        for p in self._params():
            grad = self._weight(p).grad
            if grad is not None:
                local(grad).mul_(factor.to(grad.device, grad.dtype))

    def _say_skipped(self) -> None:
        self.skipped += 1
        if self.skipped == 1:
            warnings.warn("[SAM] a gradient held NaN or Inf: step skipped (said once)", stacklevel=3)

    def _freeze(self) -> None:
        """BatchNorm layers normalise by the batch, as in training, and leave their statistics alone."""
        for module in self.model.modules() if self.model is not None else ():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                continue
            if module.training and module.track_running_stats:
                module.track_running_stats = False
                self._frozen.append(module)

    def _thaw(self) -> None:
        while self._frozen:
            self._frozen.pop().track_running_stats = True


def _nothing() -> None:
    return None


def _alike(weights: list[torch.Tensor], masters: list[torch.Tensor | None]) -> list[list[int]]:
    """Indices of weights on one device that all have masters, or all have none."""
    members: dict[Any, list[int]] = {}
    for i, (weight, master) in enumerate(zip(weights, masters, strict=True)):
        members.setdefault((weight.device, master is None), []).append(i)
    return list(members.values())
