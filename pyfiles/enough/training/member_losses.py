"""Losses of many members at once: a mean within each member, never across members."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from enough.runtime.validation import check_choice

__all__ = ["LOSSES", "MemberLoss"]


def _cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Return (E, B, ...) losses of logits (E, B, K, ...) for labels (E, B, ...).

    Targets of the logits' shape are probabilities.
    """
    if prediction.ndim >= 3 and target.is_floating_point() and target.shape == prediction.shape:
        pass
    elif prediction.ndim < 3 or target.shape != prediction.shape[:2] + prediction.shape[3:]:
        raise ValueError(
            f"y: expected class labels of shape {tuple(prediction.shape[1:2])} for logits of "
            f"shape {tuple(prediction.shape[1:])}, got {tuple(target.shape[1:])}"
        )
    if not target.is_floating_point():
        target = target.long()
    flat = F.cross_entropy(prediction.flatten(0, 1), target.flatten(0, 1), reduction="none")
    return flat.unflatten(0, prediction.shape[:2])


def _elementwise(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def losses(prediction: Tensor, target: Tensor) -> Tensor:
        if (*target.shape, 1) == prediction.shape or (*prediction.shape, 1) == target.shape:
            target = target.reshape(prediction.shape)
        if target.shape != prediction.shape:
            raise ValueError(
                f"y: expected targets of the predictions' shape {tuple(prediction.shape[1:])}, "
                f"got {tuple(target.shape[1:])}"
            )
        return function(prediction, target.to(prediction.dtype), reduction="none")

    return losses


#: Losses known by name; each is the mean over the batch of torch's function.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": _elementwise(F.mse_loss),
    "mae": _elementwise(F.l1_loss),
    "huber": _elementwise(F.huber_loss),
    "bce": _elementwise(F.binary_cross_entropy_with_logits),
    "cross_entropy": _cross_entropy,
}

_NAMES = {
    F.mse_loss: "mse",
    F.l1_loss: "mae",
    F.huber_loss: "huber",
    F.binary_cross_entropy_with_logits: "bce",
    F.cross_entropy: "cross_entropy",
}


class MemberLoss:
    """Evaluate a loss for each member.

    Parameters
    ----------
    loss : str or callable
        A name of `LOSSES`, or a function of one member's prediction and target (or of its
        prediction alone) that returns a scalar.

    Raises
    ------
    ValueError
        If ``loss`` is neither.
    """

    def __init__(self, loss: str | Callable[..., Tensor]) -> None:
        if not callable(loss):
            check_choice(loss, "loss", LOSSES)
        self.name = loss if isinstance(loss, str) else _NAMES.get(loss)
        self._stacked = LOSSES.get(self.name)
        self._single = None if self._stacked is not None else loss
        self._maps = True

    def __call__(self, prediction: Tensor, target: Tensor | None) -> Tensor:
        """Return one loss a member.

        Parameters
        ----------
        prediction : torch.Tensor, shape (E, B, ...)
            Predictions.
        target : torch.Tensor, shape (E, B, ...), or None
            Targets.

        Returns
        -------
        torch.Tensor, shape (E,)
            The losses.

        Raises
        ------
        ValueError
            If shapes do not fit, or the function does not return a scalar.
        """
        if self._stacked is not None:
            if target is None:
                raise ValueError("y: expected targets for this loss, got None")
            return self._stacked(prediction, target).flatten(1).mean(1)
        inputs = (prediction,) if target is None else (prediction, target)
        if self._maps:
            try:
                losses = vmap(self._single, randomness="different")(*inputs)
            except Exception:  # no batching rule, control flow on data, or an error of its own
                self._maps = False
            else:
                if losses.ndim > 1:
                    raise ValueError(
                        "loss: expected a function that returns a scalar tensor, got "
                        f"{tuple(losses.shape[1:])}"
                    )
                return losses
        members = [self._alone(*(t[e] for t in inputs)) for e in range(prediction.shape[0])]
        return torch.stack(members)

    def one(self, prediction: Tensor, target: Tensor | None) -> Tensor:
        """Return the loss of one member.

        Parameters
        ----------
        prediction : torch.Tensor, shape (B, ...)
            Its predictions.
        target : torch.Tensor, shape (B, ...), or None
            Its targets.

        Returns
        -------
        torch.Tensor, shape ()
            The loss.

        Raises
        ------
        ValueError
            If shapes do not fit, or the function does not return a scalar.
        """
        if self._stacked is not None:
            return self(prediction.unsqueeze(0), None if target is None else target.unsqueeze(0))[0]
        return self._alone(prediction) if target is None else self._alone(prediction, target)

    def _alone(self, *inputs: Tensor) -> Tensor:
        value = self._single(*inputs)
        if not isinstance(value, Tensor) or value.ndim > 0:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: expected a function that returns a scalar tensor, got {came}")
        return value
