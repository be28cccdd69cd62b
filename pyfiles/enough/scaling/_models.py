"""Models of a logarithm of the loss: values, first and second derivatives for many parameters.

A model maps parameters θ (R, p), R of them at once, to f (R, n): the predicted loss of n rows, or
its logarithm. The solver needs f, its Jacobian and the Hessian contracted with a vector over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["DifferentiableModel", "Model", "PowerSum"]


class Model(Protocol):
    """What the solver asks of a model."""

    def value(self, theta: Tensor) -> Tensor:
        """Return f, shape (R, n), at ``theta``, shape (R, p)."""

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return f, shape (R, n), and its derivatives, shape (R, n, p)."""

    def curvature(self, theta: Tensor, weight: Tensor) -> Tensor:
        """Return Σ_i weight_i ∇²f_i, shape (R, p, p), for ``weight`` of shape (R, n)."""


class PowerSum:
    """Logarithm of a sum of power laws, f = log Σ_k exp(X_k θ + o_k).

    Every term of the sum is linear in θ after the logarithm, so that all derivatives are in closed
    form: ∇f is the mean of the rows of X under the softmax of the terms, and ∇²f their covariance.

    Parameters
    ----------
    designs : sequence of torch.Tensor, each shape (n, p)
        One design matrix a term.
    offsets : sequence of torch.Tensor, each shape (n,), optional
        Known parts of the terms; 0 without them.
    """

    def __init__(self, designs: Sequence[Tensor], offsets: Sequence[Tensor] | None = None) -> None:
        self.designs = torch.stack(list(designs))  # (K, n, p)
        terms, rows, _ = self.designs.shape
        self.offsets = (
            torch.zeros(terms, rows, dtype=self.designs.dtype)
            if offsets is None
            else torch.stack(list(offsets))
        )
        self._squares = (self.designs[..., :, None] * self.designs[..., None, :]).flatten(-2)

    def _terms(self, theta: Tensor) -> Tensor:
        return torch.einsum("knp,rp->rkn", self.designs, theta) + self.offsets

    def value(self, theta: Tensor) -> Tensor:
        """Return the logarithm of the sum, shape (R, n)."""
        return self._terms(theta).logsumexp(1)

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of the sum and its derivatives, shapes (R, n) and (R, n, p)."""
        terms = self._terms(theta)
        f = terms.logsumexp(1)
        share = (terms - f[:, None]).exp()  # (R, K, n)
        return f, torch.einsum("rkn,knp->rnp", share, self.designs)

    def curvature(self, theta: Tensor, weight: Tensor) -> Tensor:
        """Return Σ_i weight_i ∇²f_i, shape (R, p, p)."""
        terms = self._terms(theta)
        share = (terms - terms.logsumexp(1, keepdim=True)).exp()
        size = theta.shape[1]
        second = torch.einsum("rkn,knq->rq", share * weight[:, None], self._squares)
        mean = torch.einsum("rkn,knp->rnp", share, self.designs)
        return second.unflatten(-1, (size, size)) - mean.mT @ (weight[..., None] * mean)


class DifferentiableModel:
    """A model written as a function of one parameter vector, differentiated by `torch.func`.

    Parameters
    ----------
    function : callable
        Maps θ (p,) to f (n,), in torch operations that `torch.func.vmap` can batch.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        def contracted(theta: Tensor, weight: Tensor) -> Tensor:
            return (weight * function(theta)).sum()

        self._value = torch.func.vmap(function)
        self._jacobian = torch.func.vmap(torch.func.jacfwd(function))
        self._curvature = torch.func.vmap(
            torch.func.jacfwd(torch.func.jacrev(contracted)), in_dims=(0, 0)
        )

    def value(self, theta: Tensor) -> Tensor:
        """Return the function's values, shape (R, n)."""
        return self._value(theta)

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and derivatives, shapes (R, n) and (R, n, p)."""
        return self._value(theta), self._jacobian(theta)

    def curvature(self, theta: Tensor, weight: Tensor) -> Tensor:
        """Return Σ_i weight_i ∇²f_i, shape (R, p, p)."""
        return self._curvature(theta, weight)
