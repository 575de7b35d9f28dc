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
from pydelta.optim._buffers import Buffers
from pydelta.optim._perturbing import Moved, Number, Perturbing
from pydelta.optim._sharded import local, norm

Closure = Callable[[], Any]
_Options = tuple[float, bool, float]
_OPTIONS = ("rho", "adaptive", "eta")


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
    finite. A parameter group may have a ``rho``, ``adaptive`` and ``eta`` of its own (not where the base
    optimizer has a number of that name); the norm is still one, over all groups. Copies (copy.deepcopy,
    pickle) step as the original does; a Trainer must be attached anew. The state goes through
    torch.distributed.checkpoint.

    Args:
        base_optimizer: takes the step with the second gradient.
        rho: the length of e; 0.05 for SAM, 0.5 for ASAM in their papers.
        adaptive, eta: ASAM, and what it adds to each weight's magnitude.
        max_norm: the second gradient is clipped to this norm.
        model: what the second pass changes in its buffers (running statistics of BatchNorm and the like,
            counters; bool masks aside) is put back.
        copies: fp32 parameter of ``base_optimizer`` -> 16-bit weight that forward and backward use.

    Attributes:
        rho, adaptive, eta, max_norm: as given; of the groups that have none of their own.
        skipped: steps that were not taken because a gradient held NaN or Inf.

    Raises:
        TypeError: ``base_optimizer`` is none, a number is no number, or a parameter complex.
        ValueError: a negative number.
    """

    rho, adaptive, eta = Number("sam_rho"), Number("sam_adaptive"), Number("sam_eta")
    max_norm, skipped = Number("sam_max_norm"), Number("sam_skipped")
    _KEPT = ("model",)

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
        _check_numbers({"rho": rho, "adaptive": adaptive, "eta": eta})
        most = None if max_norm is None else at_least_zero("SAM", "max_norm", max_norm)
        self.model = model
        super().__init__(base_optimizer, copies)
        self.rho, self.adaptive, self.eta = float(rho), adaptive, float(eta)
        self.max_norm, self.skipped = most, 0
        for group in self.param_groups:
            _check_numbers(self._own_of(group))

    def _begin(self) -> None:
        super()._begin()
        self._buffers: Buffers | None = None
        self._norm: torch.Tensor | None = None
        self._replay: Closure | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "param_groups" in self.__dict__:
            _check_numbers(self._own_of(param_group))
        super().add_param_group(param_group)

    def _own_of(self, group: dict[str, Any]) -> dict[str, Any]:
        """What a group has been given for itself: Adadelta's rho, for one, is not SAM's."""
        theirs = self.base_optimizer.defaults
        return {name: group[name] for name in _OPTIONS if name in group and name not in theirs}

    def _options(self) -> dict[torch.Tensor, _Options]:
        """rho, adaptive and eta of every parameter."""
        options = {}
        for group in self.param_groups:
            own = {name: group[f"sam_{name}"] for name in _OPTIONS} | self._own_of(group)
            numbers = float(own["rho"]), bool(own["adaptive"]), float(own["eta"])
            options.update(dict.fromkeys(group["params"], numbers))
        return options

    @torch.no_grad()
    def first_step(self, zero_grad: bool = True) -> torch.Tensor:
        """To w + e, with the gradients at hand; keeps the model's buffers.

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
        of, options = [self._weight(p) for p in params], self._options()
        numbers = [options[p] for p in params]
        scales = [
            (w if m is None else m) if adaptive else None
            for w, m, (_, adaptive, _) in zip(weights, masters, numbers, strict=True)
        ]
        self._norm = norm(of, grads, scales, [eta for _, _, eta in numbers])
        moved = []
        for (device, _, (rho, adaptive, eta)), members in _alike(weights, masters, numbers).items():
            some = [[values[i] for i in members] for values in (weights, grads)]
            behind = [m for i in members if (m := masters[i]) is not None]
            sources = behind or [self._backup(params[i]) for i in members]
            kept: dict[str, Any] = {"masters": sources} if behind else {"backups": sources}
            sam_perturb_(*some, norm=self._norm.to(device), rho=rho, adaptive=adaptive, eta=eta, **kept)
            moved += [Moved(of[i], weights[i], s) for i, s in zip(members, sources, strict=True)]
        self._hold(moved)
        self._buffers = Buffers(self.model)
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
        if closure is None and self._makes_state():
            return None
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

    def _thaw(self) -> None:
        if self._buffers is not None:
            self._buffers.restore()


def _nothing() -> None:
    return None


def _check_numbers(numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        check.flag("SAM", name, value) if name == "adaptive" else at_least_zero("SAM", name, value)


def _alike(
    weights: list[torch.Tensor], masters: list[torch.Tensor | None], options: list[_Options]
) -> dict[tuple[torch.device, bool, _Options], list[int]]:
    """Indices of weights on one device and of the same options that all have masters, or all have none."""
    members: dict[tuple[torch.device, bool, _Options], list[int]] = {}
    for i, (weight, master, numbers) in enumerate(zip(weights, masters, options, strict=True)):
        members.setdefault((weight.device, master is None, numbers), []).append(i)
    return members
