"""SAM in transformers.Trainer, which knows one backward pass a step."""

from __future__ import annotations

from typing import Any

import torch

from pydelta.optim.sam import SAM


def attach(trainer: Any) -> Any:
    """Lets a ``transformers.Trainer`` whose optimizer is a :class:`SAM` take its steps.

        sam = pydelta.optim.SAM(torch.optim.AdamW(model.parameters(), lr=1e-5), model=model)
        trainer = pydelta.optim.attach(Trainer(model, args, optimizers=(sam, None), ...))

    The micro-batches of a step are kept and run once more at w + e, through the trainer's own
    ``training_step``; so gradient accumulation, its loss and its precision stay the trainer's.
    ``args.max_grad_norm`` clips the second gradient (SAM's ``max_norm`` where that is given). :class:`AdamR`,
    and :class:`MergePerturbation` with ``model=``, need no attaching: hand them over as ``optimizers=``.

    Returns:
        The trainer.

    Raises:
        TypeError: its optimizer is no SAM.
        ValueError: it has a gradient scaler (fp16): use bf16, or a loop with ``second_step(scaler=)``.
    """
    sam = trainer.optimizer
    if not isinstance(sam, SAM):
        got = type(sam).__name__
        raise TypeError(f"[attach] trainer must have a pydelta.optim.SAM as its optimizer, got {got}")
    if getattr(trainer.accelerator, "scaler", None) is not None:
        raise ValueError("[attach] trainer must train without a gradient scaler (bf16 or fp32), got fp16")
    run = trainer.training_step
    batches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    playing = False

    def training_step(*args: Any, **options: Any) -> torch.Tensor:
        if not playing:
            batches.append((args, options))
        # The trainer moves what a batch holds to its device, and pops what it does not need.
        model, inputs, *rest = args
        loss: torch.Tensor = run(model, dict(inputs), *rest, **options)
        return loss

    def replay() -> None:
        nonlocal playing
        playing = True
        try:
            for args, options in batches:
                training_step(*args, **options)
        finally:
            playing = False
            batches.clear()

    trainer.training_step = training_step
    sam._replay = replay
    if sam.max_norm is None and trainer.args.max_grad_norm:
        sam.max_norm = float(trainer.args.max_grad_norm)
    return trainer
