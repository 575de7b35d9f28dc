"""The cheap neighbour of SAM: training under the noise that a merge will add."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pydelta.core import check
from pydelta.core.random import key
from pydelta.ops.vera_matrix import vera_matrix
from pydelta.optim._bases import Bases, match
from pydelta.optim._perturbing import Moved, Number, Perturbing
from pydelta.optim._sharded import local, over_shards, spread

_PIECE = 1 << 20  # variates made at once: it bounds memory beside the weights


class MergePerturbation(Perturbing):
    """Adds, for each backward pass, noise of the size that merging would add to this model (after MergOPT).

    Seen from task k, merging K models with coefficient alpha moves its weights by (alpha - 1) tau_k plus
    alpha times the other deltas. That is sampled as zeta = (K alpha - 1) z, z Laplace with the scale mean
    |tau_k| of each tensor's delta so far. One backward pass a step. The numbers of step t and parameter i
    come from Philox under ``key(seed, "merge", str(t), str(i))``, so no generator is touched; of a DTensor
    each part has numbers of its own.

    With ``model`` the noise is added when a training forward pass begins, so any loop that calls ``step()``
    will do, transformers' Trainer too. Without, call ``perturb()`` before the forward pass, or
    ``step(closure)``.

    Args:
        base_optimizer: takes the steps.
        base: as for :class:`AdamR`; what has no base is not perturbed.
        models: K, how many models will be merged.
        alpha: the coefficient that each delta will have.
        seed: of the noise.
        model: perturbed when it runs in training mode with gradients.
        copies: fp32 parameter of ``base_optimizer`` -> 16-bit weight that forward and backward use.

    Attributes:
        pulled: the names of the parameters that have a base.

    Copies (copy.deepcopy, pickle) have bases of their own; the copy of a model that was copied together with
    its optimizer is perturbed by the optimizer's copy, one that was copied alone by none. The state goes
    through torch.distributed.checkpoint.

    Raises:
        TypeError: ``base_optimizer`` is none, a number is no number, or a parameter complex.
        ValueError: ``models`` below 1, or a base that does not fit.
    """

    seed, taken, strength = Number("merge_seed"), Number("merge_taken"), Number("merge_strength")
    _KEPT = ("_base", "pulled", "_before", "_hook")
    _step_supports_amp_scaling = True  # a skipped step must take the noise away all the same

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        base: Bases,
        *,
        models: int,
        alpha: float,
        seed: int = 42,
        model: nn.Module | None = None,
        copies: Mapping[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        if check.index("MergePerturbation", "models", models) < 1:
            raise ValueError(f"[MergePerturbation] models must be at least 1, got {models}")
        strength = models * check.number("MergePerturbation", "alpha", alpha) - 1
        check.index("MergePerturbation", "seed", seed)
        super().__init__(base_optimizer, copies)
        self.seed, self.taken, self.strength = seed, 0, strength
        groups, beside = base_optimizer.param_groups, self.copies.values()
        self._base, self.pulled = match("MergePerturbation", groups, base, beside)
        self._before = _Before(self)
        self._hook = None if model is None else model.register_forward_pre_hook(self._before)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._before.optimizer = weakref.ref(self)

    def detach(self) -> None:
        """Leaves ``model`` alone from now on, for another optimizer to take over."""
        if self._hook is not None:
            self._hook.remove()

    @torch.no_grad()
    def perturb(self) -> None:
        """Adds this step's noise.

        Raises:
            RuntimeError: the weights are perturbed already.
        """
        if self._moved:
            raise RuntimeError("[MergePerturbation] perturb must be followed by step, got another perturb")
        moved = []
        for i, p in enumerate(self._params()):
            if p not in self._base or not p.requires_grad:
                continue
            weight, master = local(self._weight(p)), self._master(p)
            source = self._backup(p).copy_(weight) if master is None else master
            wide = source.to(check.compute_dtype(weight.dtype))
            tau = wide - local(self._base[p]).to(wide.dtype)
            mesh, dims = spread(p)
            scale = over_shards(tau.abs().sum(), mesh, dims) / p.numel() * self.strength
            # Each part of a spread tensor has numbers of its own, copies of a part have the same.
            name = ".".join(str(n) for n in (i, *(mesh.get_local_rank(dim) for dim in dims)))
            noise = self._laplace(name, weight.numel(), weight.device).view(weight.shape)
            weight.copy_(torch.addcmul(wide, noise.to(wide.dtype), scale))
            moved.append(Moved(self._weight(p), weight, source))
        self._hold(moved)

    def _laplace(self, name: str, count: int, device: torch.device) -> torch.Tensor:
        """Laplace variates of scale 1: sign(c) |log(1 - |c|)|, c uniform in (-1, 1) from 24 bits, never 0."""
        stream = key(self.seed, "merge", str(self.taken), name)
        pieces = []
        for start in range(0, count, _PIECE):
            shape = 1, min(_PIECE, count - start)
            c = vera_matrix(stream, "A", shape, start=(0, start), device=device).view(-1).add_(2.0**-24)
            pieces.append(c.abs().neg_().log1p_().copysign_(c))
        return torch.cat(pieces) if pieces else torch.empty(0, device=device)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes the noise away again and steps.

        Args:
            closure: computes the whole gradient and returns the loss; it is called under the noise.

        Returns:
            The closure's loss.

        Raises:
            TypeError: no closure, and no noise was added before.
        """
        loss = None
        if closure is not None:
            if not self._moved:
                self.perturb()
            self.zero_grad()
            try:
                with torch.enable_grad():
                    loss = closure()
            except BaseException:
                self._come_back()
                raise
        elif not self._moved and self._makes_state():
            return None
        elif not self._moved:
            raise TypeError("[MergePerturbation] step needs a closure, or perturb() before, got None")
        self._come_back()
        if self._unscaled():
            self._base_step()
        self.taken += 1
        return loss

    def _unscaled(self) -> bool:
        """Gradients without what a ``torch.amp.GradScaler`` that steps this optimizer put in; False where
        it saw NaN or Inf in them."""
        inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if inf is not None and bool(inf):
            return False
        for p in self._params():
            if scale is not None and (grad := self._weight(p).grad) is not None:
                local(grad).div_(scale.to(grad.device))
        return True


class _Before:
    """The hook before a model's forward pass. A copy belongs to no optimizer until one is copied with it."""

    def __init__(self, optimizer: MergePerturbation | None = None) -> None:
        self.optimizer = None if optimizer is None else weakref.ref(optimizer)

    def __reduce__(self) -> tuple[type[_Before], tuple[()]]:
        return _Before, ()

    def __call__(self, module: nn.Module, args: Any) -> None:
        optimizer = None if self.optimizer is None else self.optimizer()
        if optimizer is None or optimizer._moved:
            return
        if module.training and torch.is_grad_enabled():
            optimizer.perturb()
