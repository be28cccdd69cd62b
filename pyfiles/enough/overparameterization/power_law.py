r"""When is interpolation optimal? Kernel ridge regression with power-law eigenvalues.

Let :math:`\lambda_i \propto i^{-\alpha}` and :math:`v_i^2 \propto i^{-\beta}` with
:math:`\alpha > 1` and :math:`1 < \beta < 2\alpha + 1`, and let the number of samples n grow.
Sums over modes become integrals, for example
:math:`z = \sum_i \lambda_i/(\lambda_i+\kappa) \to C \kappa^{-1/\alpha}` and
:math:`q = \sum_i (\lambda_i/(\lambda_i+\kappa))^2 \to (1 - 1/\alpha) z`. With the root of the
fitting ratio :math:`r = \sqrt{E_\mathrm{train}/E_\mathrm{test}} = 1 - z/n`, the two factors of the
test error become

.. math::

    \frac{n}{n-q} = \frac{\alpha}{1 + (\alpha-1) r}, \qquad
    \sum_i \frac{\kappa^2 v_i^2}{(\lambda_i+\kappa)^2} \propto \big(n (1-r)\big)^{1-\beta}.

The second integral converges at small i because :math:`\beta < 2\alpha+1`, at large i because
:math:`\beta > 1`. Nothing requires :math:`\beta \ge \alpha`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scipy.optimize import brentq

from enough.runtime.validation import as_tensors, check_number, check_tensor

__all__ = [
    "FittingRatio",
    "interpolation_threshold",
    "optimal_fitting_ratio",
    "power_law_test_mse",
]


@dataclass(frozen=True)
class FittingRatio:
    r"""Where the test error of a power-law task is smallest.

    Parameters
    ----------
    root : float
        The minimizer :math:`r^* \in [0, 1)`, the root of the fitting ratio.
    ratio : float
        The optimal fitting ratio :math:`R^* = r^{*2}` of train to test error; 0 when
        interpolation is optimal.
    """

    root: float
    ratio: float


def power_law_test_mse(root: Any, alpha: float, beta: float, relative_noise: float = 0.0) -> Any:
    r"""Compute the asymptotic test error of a power-law task along the ridge path.

    .. math::

        \frac{E_\mathrm{test}(r)}{E_\mathrm{test}(0)\big|_{\sigma=0}} =
        \frac{(1-r)^{1-\beta} + \alpha\, \sigma^2_\mathrm{rel}}{1 + (\alpha-1)\, r}.

    Parameters
    ----------
    root : float or array
        Root r of the fitting ratio, in [0, 1): 0 interpolates, 1 ignores the data.
    alpha : float
        Decay of the eigenvalues, above 1.
    beta : float
        Decay of the squared coefficients, between 1 and ``2 * alpha + 1``.
    relative_noise : float, default 0.0
        Noise variance in units of the noiseless test error at ridge 0.

    Returns
    -------
    float or array
        The test error, noise included, in units of the noiseless test error at ridge 0 with
        the same number of samples; at r = 0 it is ``1 + alpha * relative_noise``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    The noise is measured in units that shrink with the number of samples, so that signal and
    noise stay comparable in the limit.

    References
    ----------
    .. [1] J. B. Simon, D. Karkada, N. Ghosh and M. Belkin, "More is Better in Modern Machine
       Learning", ICLR 2024, arXiv:2311.14646, Sec. 5.
    """
    alpha, beta, noise = _exponents(alpha, beta, relative_noise)
    (r,), restore = as_tensors(root=root)
    r = check_tensor(r if r.is_floating_point() else r.double(), "root", minimum=0.0)
    if not bool((r < 1).all()):
        raise ValueError(f"root: expected numbers below 1, got {r.max().item()}")
    result = ((1 - r) ** (1 - beta) + alpha * noise) / (1 + (alpha - 1) * r)
    return result.item() if result.ndim == 0 else restore(result)


def optimal_fitting_ratio(alpha: float, beta: float, relative_noise: float) -> FittingRatio:
    r"""Find the ratio of train to test error that minimizes the test error.

    Setting the derivative of `power_law_test_mse` to zero gives

    .. math::

        \alpha - \beta - (\alpha-1)\beta\, r
        + \alpha(\alpha-1)\, \sigma^2_\mathrm{rel}\, (1-r)^\beta = 0.

    The left side falls strictly in r and is negative at 1, so there is one root if it is
    positive at 0, and the minimum is at r = 0 (interpolation) otherwise.

    Parameters
    ----------
    alpha : float
        Decay of the eigenvalues, above 1.
    beta : float
        Decay of the squared coefficients, between 1 and ``2 * alpha + 1``.
    relative_noise : float
        Noise variance in units of the noiseless test error at ridge 0.

    Returns
    -------
    FittingRatio
        The root :math:`r^*` and its square, the fitting ratio.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [1] J. B. Simon, D. Karkada, N. Ghosh and M. Belkin, "More is Better in Modern Machine
       Learning", ICLR 2024, arXiv:2311.14646, Sec. 5.
    """
    alpha, beta, noise = _exponents(alpha, beta, relative_noise)

    def slope(r: float) -> float:
        return alpha - beta - (alpha - 1) * beta * r + alpha * (alpha - 1) * noise * (1 - r) ** beta

    root = brentq(slope, 0.0, 1.0, xtol=1e-15, rtol=1e-14) if slope(0.0) > 0 else 0.0
    return FittingRatio(root, root**2)


def interpolation_threshold(alpha: float, beta: float) -> float:
    r"""Return the largest relative noise at which interpolation is optimal.

    Parameters
    ----------
    alpha : float
        Decay of the eigenvalues, above 1.
    beta : float
        Decay of the squared coefficients, between 1 and ``2 * alpha + 1``.

    Returns
    -------
    float
        :math:`(\beta-\alpha)/(\alpha(\alpha-1))`; negative when the task is so hard
        (:math:`\beta < \alpha`) that a positive ridge helps even without noise.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    alpha, beta, _ = _exponents(alpha, beta, 0.0)
    return (beta - alpha) / (alpha * (alpha - 1))


def _exponents(alpha: Any, beta: Any, relative_noise: Any) -> tuple[float, float, float]:
    alpha = check_number(alpha, "alpha", above=1.0)
    beta = check_number(beta, "beta", above=1.0)
    if beta >= 2 * alpha + 1:
        raise ValueError(
            f"beta: expected a number below 2 * alpha + 1 = {2 * alpha + 1}, got {beta}"
        )
    return alpha, beta, check_number(relative_noise, "relative_noise", minimum=0.0)
