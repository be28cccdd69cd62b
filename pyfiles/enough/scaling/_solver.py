"""Huber regression of a nonlinear model: many starts, many resamples, one batch.

Near the optimum most residuals lie outside the quadratic zone of a Huber loss with a small δ, and
first-order and quasi-Newton methods creep. The damped Newton method here uses the exact Hessian
plus a multiple of the majorizing quadratic of iteratively reweighted least squares, which is a
safe step where the Hessian is not positive definite. Problems that have converged leave the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from enough.scaling._models import Model

__all__ = ["huber", "minimize"]

_TINY = 1e-300
#: A start that runs off along a flat direction gains ever less: it ends after so many steps in a
#: row that each lower its objective by less than this share.
_PATIENCE, _GAIN = 8, 1e-9


def huber(residual: Tensor, delta: float) -> Tensor:
    """Return Huber's loss, r²/2 inside δ and δ (|r| − δ/2) outside.

    Parameters
    ----------
    residual : torch.Tensor
        Residuals r.
    delta : float
        Width of the quadratic zone; with ``inf`` the loss is r²/2 everywhere.

    Returns
    -------
    torch.Tensor
        The loss, of the residuals' shape.
    """
    if delta == float("inf"):
        return residual.square() / 2
    size = residual.abs()
    return torch.where(size <= delta, residual.square() / 2, delta * (size - delta / 2))


def _objective(model: Model, theta: Tensor, target: Tensor, weight: Tensor, delta: float) -> Tensor:
    loss = (weight * huber(model.value(theta) - target, delta)).sum(-1)
    return torch.where(loss.isfinite(), loss, torch.inf)


def minimize(
    model: Model,
    starts: Tensor,
    target: Tensor,
    weight: Tensor,
    delta: float,
    *,
    steps: int = 300,
    tolerance: float = 1e-13,
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimize Σ_i w_i Huber_δ(f_i(θ) − y_i) from every start, as one batch.

    Parameters
    ----------
    model : Model
        Values and derivatives.
    starts : torch.Tensor, shape (R, p)
        Where to begin; float64.
    target : torch.Tensor, shape (n,)
        Observed values y.
    weight : torch.Tensor, shape (n,) or (R, n)
        Weights of the rows; counts of a resample, for example.
    delta : float
        Width of the quadratic zone; ``inf`` gives least squares.
    steps : int, default 300
        Most iterations.
    tolerance : float, default 1e-13
        A problem has converged when a full step promises to lower its objective by less than
        this share, or when eight steps in a row each lowered it by less than one part in 10⁹.

    Returns
    -------
    theta : torch.Tensor, shape (R, p)
        Where each start ended.
    objective : torch.Tensor, shape (R,)
        The objective there; ``inf`` where a start never had a finite value.
    converged : torch.Tensor, shape (R,), bool
        Whether the tolerance was met.
    """
    theta = starts.clone()
    weight = weight.expand(len(theta), -1)
    best = _objective(model, theta, target, weight, delta)
    damping = torch.ones_like(best)
    done = ~best.isfinite()
    failed = done.clone()
    stale = torch.zeros_like(best)  # steps in a row that gained next to nothing
    for _ in range(steps):
        active = (~done).nonzero()[:, 0]
        if not len(active):
            break
        here, w = theta[active], weight[active]
        f, jacobian = model.jacobian(here)
        residual = f - target
        slope = w * residual.clamp(-delta, delta)
        gradient = torch.einsum("rn,rnp->rp", slope, jacobian)
        inside = w * (residual.abs() <= delta)
        newton = jacobian.mT @ (inside[..., None] * jacobian) + model.curvature(here, slope)
        shrink = w * (delta / residual.abs().clamp_min(_TINY)).clamp_max(1.0)
        majorizer = jacobian.mT @ (shrink[..., None] * jacobian)
        scale = majorizer.diagonal(dim1=-2, dim2=-1).clamp_min(_TINY)
        majorizer = majorizer + torch.diag_embed(1e-12 * scale)
        before = best[active]
        moved = torch.zeros(len(active), dtype=torch.bool)
        small = torch.zeros_like(moved)
        pending = torch.ones_like(moved)
        for _ in range(25):  # raise the damping until the objective falls
            at = pending.nonzero()[:, 0]
            if not len(at):
                break
            rows = active[at]
            matrix = newton[at] + damping[rows, None, None] * majorizer[at]
            factor, info = torch.linalg.cholesky_ex(matrix)
            usable = info == 0
            safe = torch.where(usable[:, None, None], factor, torch.eye(theta.shape[1]).to(factor))
            step = -torch.cholesky_solve(gradient[at, :, None], safe)[..., 0]
            promise = -(step * gradient[at]).sum(-1) / 2
            trial = here[at] + step
            value = _objective(model, trial, target, w[at], delta)
            better = usable & (value < best[rows])
            flat = usable & (promise <= tolerance * best[rows].clamp_min(_TINY))
            theta[rows[better]] = trial[better]
            best[rows[better]] = value[better]
            damping[rows] = torch.where(better, damping[rows] / 5, damping[rows] * 4).clamp(
                1e-12, 1e12
            )
            moved[at[better]] = True
            small[at[flat]] = True
            pending[at[better | flat]] = False
        gain = (before - best[active]) / before.clamp_min(_TINY)
        stale[active] = torch.where(gain < _GAIN, stale[active] + 1, 0.0)
        done[active[small | (stale[active] >= _PATIENCE)]] = True
        stuck = active[~moved & ~small]
        done[stuck] = True
        failed[stuck] = True
    return theta, best, done & ~failed
