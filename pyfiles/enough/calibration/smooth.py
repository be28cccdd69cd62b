"""The smooth calibration error: a kernel instead of bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from scipy.optimize import brentq

from enough.calibration._inputs import read_probs, row_slices
from enough.calibration._sums import read_event
from enough.runtime.validation import check_number

__all__ = ["deposit", "smooth_calibration_error", "smooth_error_from_grid"]

# Residuals are shared between the two nearest of this many cell edges on [0, 1].
CELLS = 1 << 15


def smooth_calibration_error(probs: Any, labels: Any, *, bandwidth: float | None = None) -> float:
    """Return the smooth calibration error (smECE).

    smECE_s = ∫₀¹ abs(E[(f − y) K_s(t, f)]) dt, where K_s is a Gaussian of standard
    deviation s reflected at 0 and 1. It does not increase with s, so there is one s* with
    smECE_{s*} = s*; that value is returned.

    Parameters
    ----------
    probs : array of shape (N, K) or (N,)
        Rows on the simplex (the calibration of the top label), or P(y = 1).
    labels : array of shape (N,)
        Class numbers from 0.
    bandwidth : float, optional
        A fixed s > 0 instead of s*.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    Notes
    -----
    On [0, 1] the reflected Gaussian is the heat kernel with insulated ends, so smoothing
    multiplies the cosine coefficients of the residuals by exp(−(πks)²/2). The residuals
    are first shared linearly between the nearest points of a grid of step h = 2⁻¹⁵, which
    adds at most h²/4 to the kernel's variance.

    References
    ----------
    Błasiok, Nakkiran (2023), Smooth ECE: principled reliability diagrams via kernel
    smoothing, Definition 3 and Algorithm 1.
    """
    if bandwidth is not None:
        bandwidth = check_number(bandwidth, "bandwidth", above=0.0)
    probs, labels, _ = read_probs(probs, labels)
    values, outcomes = read_event(probs, labels)
    return smooth_error_from_grid(deposit(values, outcomes), values.shape[0], bandwidth)


def deposit(values: torch.Tensor, outcomes: torch.Tensor) -> torch.Tensor:
    """Share each residual f − y between the two grid points beside f.

    Parameters
    ----------
    values : torch.Tensor
        Shape (N,), in [0, 1].
    outcomes : torch.Tensor
        Shape (N,), bool or 0/1.

    Returns
    -------
    torch.Tensor
        Sums, float64, shape (CELLS + 1,).
    """
    grid = torch.zeros(CELLS + 1, dtype=torch.float64, device=values.device)
    for rows in row_slices(values.shape[0], 1, values.device):
        place = values[rows].double() * CELLS
        left = place.floor().clamp_(max=CELLS - 1)
        share = place - left
        residual = values[rows].double() - outcomes[rows].double()
        index = left.to(torch.int64)
        grid.index_add_(0, index, residual * (1.0 - share))
        grid.index_add_(0, index + 1, residual * share)
    return grid


def smooth_error_from_grid(
    grid: torch.Tensor, n_samples: int, bandwidth: float | None = None
) -> float:
    """Return smECE from residuals on the grid.

    Parameters
    ----------
    grid : torch.Tensor
        What `deposit` returned, or a sum of such.
    n_samples : int
        The number of samples behind it.
    bandwidth : float, optional
        A fixed s instead of the fixed point.

    Returns
    -------
    float
        In [0, 1].
    """
    mass = grid.cpu().numpy() / n_samples
    # Point masses at the ends are half outside: reflection doubles them.
    density = mass * CELLS
    density[[0, -1]] *= 2.0
    modes = dct(density, type=1)
    rates = 0.5 * (np.pi * np.arange(CELLS + 1)) ** 2

    def error(s: float) -> float:
        smooth = np.abs(dct(modes * np.exp(-rates * s * s), type=1)) / (2.0 * CELLS)
        return float((smooth.sum() - 0.5 * (smooth[0] + smooth[-1])) / CELLS)

    if bandwidth is not None:
        return error(bandwidth)
    if error(0.0) == 0.0:
        return 0.0
    if error(1.0) >= 1.0:  # every forecast is wrong and certain
        return 1.0
    return float(brentq(lambda s: error(s) - s, 0.0, 1.0, xtol=1e-14, rtol=1e-13))
