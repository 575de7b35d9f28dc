"""The cheap neighbour of SAM: training under the noise that a merge will add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pydelta.core import check
from pydelta.core.random import key
from pydelta.ops.vera_matrix import vera_matrix
from pydelta.optim._bases import Bases, match
from pydelta.optim._perturbing import Moved, Perturbing
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

    Raises:
        TypeError: ``base_optimizer`` is none, or a number is no number.
        ValueError: ``models`` below 1, or a base that does not fit.
    """

    _OWN = ("seed", "taken", "strength")

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
        self.strength = models * check.number("MergePerturbation", "alpha", alpha) - 1
        self.seed, self.taken = check.index("MergePerturbation", "seed", seed), 0
        super().__init__(base_optimizer, copies)
        self._base = match("MergePerturbation", base_optimizer.param_groups, base)
        self._hook = None if model is None else model.register_forward_pre_hook(self._before_forward)

    def detach(self) -> None:
        """Leaves ``model`` alone from now on, for another optimizer to take over."""
        if self._hook is not None:
            self._hook.remove()

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if module.training and torch.is_grad_enabled() and not self._moved:
            self.perturb()

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
        elif not self._moved:
            raise TypeError("[MergePerturbation] step needs a closure, or perturb() before, got None")
        self._come_back()
        self._base_step()
        self.taken += 1
        return loss
