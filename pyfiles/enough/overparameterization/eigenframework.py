r"""Risk of random-feature ridge regression from the kernel's eigenvalues alone.

A target :math:`y = \sum_i v_i \phi_i(x) + \varepsilon` with noise variance :math:`\sigma^2` is
learned from :math:`n` samples by ridge regression on :math:`k` random features whose expected
kernel has eigenvalues :math:`\lambda_i` and eigenfunctions :math:`\phi_i`. The paper states two
coupled equations for two unknowns :math:`\kappa, \gamma \ge 0` [1]_:

.. math::

    \sum_i \frac{\lambda_i}{\lambda_i+\gamma} + \frac{\delta}{\kappa} = n, \qquad
    \sum_i \frac{\lambda_i}{\lambda_i+\gamma} + \frac{k\kappa}{\gamma} = k.

Write :math:`L_i = \lambda_i/(\lambda_i+\gamma)`, :math:`H_i = 1-L_i`, :math:`z = \sum_i L_i`,
and call :math:`a = n - z` and :math:`b = k - z` the slacks. Eliminating
:math:`\kappa = \gamma b/k` leaves one equation, :math:`a\,b\,\gamma = k\delta`. The slacks differ
by :math:`k - n` and have the product :math:`P = k\delta/\gamma`, so for a given :math:`\gamma`
they are the roots of a quadratic and need no sum over modes. With
:math:`s = \min(n, k)` the equation becomes

.. math::

    z(\gamma) + \underline{a}(\gamma) = s, \qquad
    \underline{a} = \frac{2P}{|k-n| + \sqrt{(k-n)^2 + 4P}} = \min(a, b).

Sort the eigenvalues, split them after the first :math:`s`, and move the :math:`H_i` of the first
part to the right: :math:`\sum_{i>s} L_i + \underline{a} = \sum_{i\le s} H_i`. Both sides are sums
of positive terms, and the logarithm of their ratio, as a function of :math:`\log\gamma`, has a
slope between -2 and -1/2: the root is well conditioned for every spectrum, and a Newton step
can never be off by more than a factor of four. With :math:`c = \sum_i L_i H_i` the errors are

.. math::

    E_\mathrm{test} = \frac{n}{ab + c(a+b)} \Big[ \sum_i v_i^2 H_i (b H_i + c)
                    + (b + c)\,\sigma^2 \Big], \qquad
    E_\mathrm{train} = (a/n)^2 E_\mathrm{test}.

No term is negative, so nothing cancels, at ridge zero and at :math:`n = k` included.

References
----------
.. [1] J. B. Simon, D. Karkada, N. Ghosh and M. Belkin, "More is Better in Modern Machine
   Learning", ICLR 2024, arXiv:2311.14646.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from enough.runtime import chunks, exact_device
from enough.runtime.validation import as_tensors, check_tensor

__all__ = [
    "OptimalRidge",
    "RFRisk",
    "finite_population_test_mse",
    "optimal_ridge",
    "rf_risk",
]

# Bytes of working arrays at a time. On a CPU they stay in cache, which halves the time of a
# sweep; on a GPU larger blocks fill the device.
_MEMORY, _GPU_MEMORY = 16 * 2**20, 256 * 2**20
_ARRAYS = 8  # (points, modes) arrays alive at once in a sweep
_MODES = 2**17  # longer spectra are summed in parts, which stay in cache
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class RFRisk:
    """What the eigenframework predicts for random-feature ridge regression.

    Parameters
    ----------
    test_mse : float or array
        Expected squared error on a fresh noisy sample (noise included).
    train_mse : float or array
        Expected mean squared error on the training samples.
    kappa : float or array
        The effective ridge that the kernel's spectrum sees through the samples alone.
    gamma : float or array
        The threshold: modes with eigenvalue above it are learned.
    fitting_ratio : float or array
        ``train_mse / test_mse``, from 0 (interpolation) to 1; well defined where the
        test error is infinite or zero.
    overfitting : float or array
        The factor by which label noise is amplified in ``test_mse``; 1 for a predictor that
        ignores its data.
    """

    test_mse: Any
    train_mse: Any
    kappa: Any
    gamma: Any
    fitting_ratio: Any
    overfitting: Any


@dataclass(frozen=True)
class OptimalRidge:
    """The ridge that minimizes the predicted test error.

    Parameters
    ----------
    ridge : float or array
        The minimizer in ``[0, inf]``; 0 means that interpolation is optimal, ``inf`` that
        nothing can be learned.
    test_mse : float or array
        The minimum, noise included.
    train_mse : float or array
        The training error there.
    fitting_ratio : float or array
        ``train_mse / test_mse`` there.
    """

    ridge: Any
    test_mse: Any
    train_mse: Any
    fitting_ratio: Any


def rf_risk(
    eigenvalues: Any,
    coefficients: Any,
    n_samples: Any,
    n_features: Any,
    ridge: Any,
    noise_variance: Any = 0.0,
    multiplicities: Any = None,
) -> RFRisk:
    r"""Predict train and test error of random-feature ridge regression.

    The predictor is :math:`\hat f(x) = \hat K_{xX} (\hat K_{XX} + \delta I)^{-1} y` with the
    average :math:`\hat K(x, x') = \frac{1}{k} \sum_j g(w_j, x)\, g(w_j, x')` over ``n_features``
    random features. The ridge :math:`\delta` is not multiplied by the number of samples.

    Parameters
    ----------
    eigenvalues : array of shape (m,)
        Kernel eigenvalues, zero or more, in any order. A mode with eigenvalue 0 cannot be
        learned; its power acts as noise.
    coefficients : array of shape (m,) or (m, outputs)
        Target coefficients :math:`v_i` in the eigenbasis, not squared.
    n_samples : float or array
        Training samples, positive and finite; fractions are allowed.
    n_features : float or array
        Random features, positive; ``math.inf`` gives kernel ridge regression.
    ridge : float or array
        The ridge :math:`\delta \ge 0`. At 0 the result is the exact limit from above, which
        belongs to the minimum-norm interpolator or least-squares solution.
    noise_variance : float or array, default 0.0
        Label noise variance :math:`\sigma^2 \ge 0`, the same for all outputs.
    multiplicities : array of shape (m,), optional
        How often each eigenvalue occurs, positive, fractions allowed. The squared coefficient
        of a repeated eigenvalue is the total power of its modes. Default: once each.

    Returns
    -------
    RFRisk
        Fields have the broadcast shape of ``n_samples``, ``n_features``, ``ridge`` and
        ``noise_variance``; ``test_mse`` and ``train_mse`` (and ``fitting_ratio``, without
        the outputs axis) follow, with a last axis of outputs when ``coefficients`` has one.
        Plain floats for scalars; float64 tensors on the eigenvalues' device (on the CPU for
        devices without float64) when any argument is a tensor, else float64 numpy arrays.

    Raises
    ------
    ValueError
        If an argument has the wrong shape, is NaN, or lies outside its range.

    Notes
    -----
    Solves the coupled equations of [1]_ in the reduced form of this module's documentation: Newton
    steps on one scalar equation, for a block of points at once. On a CPU the working arrays take
    about 16 MiB, and a few arrays as long as the spectrum (256 MiB on a GPU).

    Limits at ridge 0, with ``rank`` the number of positive eigenvalues (counted with
    multiplicity) and :math:`\sigma_0^2` the noise plus the power of zero modes:

    - ``n < k`` and ``n < rank``: interpolation, ``train_mse`` is 0.
    - ``k < n`` and ``k < rank``: ``kappa`` is 0, the fitting ratio is :math:`(1-k/n)^2`.
    - ``n = k < rank``: ``test_mse`` is infinite (0 for a target that is zero), ``train_mse`` 0.
    - ``rank <= min(n, k)``: ``gamma`` and ``kappa`` are 0, ``test_mse`` is
      :math:`\sigma_0^2\, n / (n - \mathrm{rank})`. At ``n = rank`` it is infinite if
      :math:`\sigma_0^2 > 0`; else 0 for ``k > n`` and
      :math:`\frac n3 \sum_i (v_i^2/\lambda_i) / \sum_i (1/\lambda_i)` for ``k = n``, where
      single runs succeed but their mean does not converge to 0.

    References
    ----------
    .. [1] J. B. Simon, D. Karkada, N. Ghosh and M. Belkin, "More is Better in Modern Machine
       Learning", ICLR 2024, arXiv:2311.14646.

    Examples
    --------
    >>> import math
    >>> risk = rf_risk([1.0] * 200, [0.0] * 200, 100, math.inf, 0.0, noise_variance=1.0)
    >>> round(risk.test_mse, 6)
    2.0
    """
    spectrum = _spectrum(eigenvalues, coefficients, multiplicities)
    points, as_given = _points(
        (eigenvalues, coefficients, multiplicities),
        spectrum.values.device,
        n_samples=n_samples,
        n_features=n_features,
        ridge=ridge,
        noise_variance=noise_variance,
    )
    n, k, delta, noise = points
    n, k, delta = torch.broadcast_tensors(n, k, delta)  # noise needs no solve of its own
    flat = [_solve(spectrum, *(t.reshape(-1)[rows] for t in (n, k, delta)))
            for rows in _row_blocks(spectrum, n.numel())]  # fmt: skip
    signal, overfitting, ratio, kappa, gamma = (
        torch.cat(parts).reshape(n.shape + parts[0].shape[1:]) for parts in zip(*flat, strict=True)
    )
    shape = torch.broadcast_shapes(n.shape, noise.shape)
    overfitting, ratio, kappa, gamma, noise = (
        t.expand(shape) for t in (overfitting, ratio, kappa, gamma, noise)
    )
    signal = signal.expand(*shape, signal.shape[-1])
    test_mse, train_mse = _errors(signal, overfitting, ratio, noise)
    if not spectrum.outputs:
        test_mse, train_mse = test_mse[..., 0], train_mse[..., 0]
    return RFRisk(*map(as_given, (test_mse, train_mse, kappa, gamma, ratio, overfitting)))


def optimal_ridge(
    eigenvalues: Any,
    coefficients: Any,
    n_samples: Any,
    n_features: Any,
    noise_variance: Any = 0.0,
    multiplicities: Any = None,
) -> OptimalRidge:
    r"""Find the ridge with the smallest predicted test error.

    Parameters
    ----------
    eigenvalues : array of shape (m,)
        Kernel eigenvalues, zero or more.
    coefficients : array of shape (m,)
        Target coefficients :math:`v_i` in the eigenbasis, not squared.
    n_samples : float or array
        Training samples, positive and finite.
    n_features : float or array
        Random features, positive; ``math.inf`` gives kernel ridge regression.
    noise_variance : float or array, default 0.0
        Label noise variance.
    multiplicities : array of shape (m,), optional
        How often each eigenvalue occurs, as in `rf_risk`.

    Returns
    -------
    OptimalRidge
        Fields have the broadcast shape of ``n_samples``, ``n_features`` and
        ``noise_variance``; types as for `rf_risk`.

    Raises
    ------
    ValueError
        If an argument has the wrong shape, is NaN, or lies outside its range.

    Notes
    -----
    The threshold :math:`\gamma` is a strictly increasing function of the ridge, and for a given
    :math:`\gamma` the ridge and the errors need no solve. The search runs over
    :math:`\log\gamma`: a scan with four points a decade finds the best cell, golden sections
    refine it, and the exact limits at ridge 0 and infinity compete with the result. A minimum
    narrower than a quarter of a decade could be missed.

    References
    ----------
    .. [1] J. B. Simon, D. Karkada, N. Ghosh and M. Belkin, "More is Better in Modern Machine
       Learning", ICLR 2024, arXiv:2311.14646, Sec. 4.
    """
    spectrum = _spectrum(eigenvalues, coefficients, multiplicities)
    if spectrum.outputs:
        raise ValueError(
            "coefficients: expected shape (m,), one target at a time, "
            f"got {spectrum.powers.shape[1]} outputs"
        )
    points, as_given = _points(
        (eigenvalues, coefficients, multiplicities),
        spectrum.values.device,
        n_samples=n_samples,
        n_features=n_features,
        noise_variance=noise_variance,
    )
    n, k, noise = torch.broadcast_tensors(*points)
    flat = [_minimize(spectrum, *(t.reshape(-1)[rows] for t in (n, k, noise)))
            for rows in _row_blocks(spectrum, n.numel())]  # fmt: skip
    fields = (torch.cat(parts).reshape(n.shape) for parts in zip(*flat, strict=True))
    return OptimalRidge(*map(as_given, fields))


def finite_population_test_mse(
    test_mse: Any, train_mse: Any, n_samples: Any, population: Any
) -> Any:
    r"""Convert the error on fresh samples to the error on the rest of a finite data set.

    When training samples are drawn without replacement from ``population`` points and the
    eigensystem was computed on all of them, the theory's test error is the mean over all
    points, the training points included. The mean over the points not drawn is

    .. math:: E' = \frac{M E_\mathrm{test} - n E_\mathrm{train}}{M - n}.

    Parameters
    ----------
    test_mse : float or array
        Test error from `rf_risk`.
    train_mse : float or array
        Training error from `rf_risk`.
    n_samples : float or array
        Training samples :math:`n`, below ``population``.
    population : float or array
        Number of points :math:`M` of the whole data set.

    Returns
    -------
    float or array
        The corrected test error, broadcast over the arguments.

    Raises
    ------
    ValueError
        If an argument is NaN, negative, or ``n_samples`` is not below ``population``.
    """
    names = {
        "test_mse": test_mse,
        "train_mse": train_mse,
        "n_samples": n_samples,
        "population": population,
    }
    tensors, restore = as_tensors(**names)
    tensors = [t if t.is_floating_point() else t.double() for t in tensors]
    for name, tensor in zip(names, tensors, strict=True):
        if bool(torch.isnan(tensor).any()) or bool((tensor < 0).any()):
            raise ValueError(f"{name}: expected numbers >= 0, got {tensor.min().item()}")
    test, train, n, population = _broadcast(names, tensors)
    if not bool((n < population).all()):
        raise ValueError(
            f"n_samples: expected fewer samples than the population, got {n.max().item()} "
            f"of {population.min().item()}"
        )
    result = (population * test - n * train) / (population - n)
    return result.item() if result.ndim == 0 else restore(result)


@dataclass(frozen=True)
class _Spectrum:
    """Positive eigenvalues in descending order, and the power of the modes with none."""

    values: Tensor  # (m,)
    counts: Tensor  # (m,)
    powers: Tensor  # (m, outputs)
    null_power: Tensor  # (outputs,)
    rank: float
    outputs: bool  # whether the caller gave an outputs axis


def _spectrum(eigenvalues: Any, coefficients: Any, multiplicities: Any) -> _Spectrum:
    names = {"eigenvalues": eigenvalues, "coefficients": coefficients}
    if multiplicities is not None:
        names["multiplicities"] = multiplicities
    tensors, _ = as_tensors(**names)
    device = exact_device(tensors[0].device)
    tensors = [t.detach().to(device, torch.float64) for t in tensors]
    values = check_tensor(tensors[0], "eigenvalues", ndim=1, minimum=0.0)
    vectors = check_tensor(tensors[1], "coefficients", ndim=(1, 2))
    if vectors.shape[0] != len(values):
        raise ValueError(
            f"coefficients: expected {len(values)} rows, one per eigenvalue, "
            f"got shape {tuple(vectors.shape)}"
        )
    counts = torch.ones_like(values)
    if multiplicities is not None:
        counts = check_tensor(tensors[2], "multiplicities", shape=values.shape)
        if not bool((counts > 0).all()):
            raise ValueError(f"multiplicities: expected entries > 0, got {counts.min().item()}")
    outputs = vectors.ndim == 2
    powers = vectors.square().reshape(len(values), -1)
    if bool((values[1:] > values[:-1]).any()):
        order = torch.argsort(values, descending=True)
        values, counts, powers = values[order], counts[order], powers[order]
    m = int((values > 0).sum())
    return _Spectrum(
        values[:m], counts[:m], powers[:m], powers[m:].sum(0), float(counts[:m].sum()), outputs
    )


def _points(
    arrays: tuple[Any, ...], device: torch.device, **values: Any
) -> tuple[list[Tensor], Any]:
    """The points as float64 tensors on one device, checked, and the way back for results."""
    tensors = []
    for name, value in values.items():
        (tensor,), _ = as_tensors(**{name: value})
        tensor = tensor.detach().to(device, torch.float64)
        if bool(torch.isnan(tensor).any()):
            raise ValueError(f"{name}: expected numbers, got NaN")
        check_tensor(tensor, name, finite=name != "n_features", minimum=0.0)
        if name in ("n_samples", "n_features") and not bool((tensor > 0).all()):
            raise ValueError(f"{name}: expected positive numbers, got {tensor.min().item()}")
        tensors.append(tensor)
    _broadcast(values, tensors)
    given_tensor = any(isinstance(value, Tensor) for value in (*arrays, *values.values()))

    def as_given(result: Tensor) -> Any:
        if result.ndim == 0:
            return result.item()
        return result if given_tensor else result.cpu().numpy()

    return tensors, as_given


def _broadcast(names: Any, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    try:
        return torch.broadcast_tensors(*tensors)
    except RuntimeError as error:
        shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in zip(names, tensors, strict=True))
        raise ValueError(
            f"{', '.join(names)}: expected shapes that broadcast, got {shapes}"
        ) from error


def _row_blocks(spectrum: _Spectrum, n_points: int) -> Any:
    limit = _MEMORY if spectrum.values.device.type == "cpu" else _GPU_MEMORY
    return chunks(n_points, 8 * _ARRAYS * max(len(spectrum.values), 1), limit)


def _errors(
    signal: Tensor, overfitting: Tensor, ratio: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Test and train error; an infinite amplification of no noise is no error."""
    noise_part = torch.where(noise > 0, overfitting * noise, 0.0)
    test = signal + noise_part[..., None]
    ratio = ratio[..., None].expand_as(test)
    return test, torch.where(ratio > 0, ratio * test, 0.0)


class _Balance:
    r"""The scalar equation at a block of points.

    ``first`` (points, m) counts the modes among the :math:`s = \min(n, k)` largest; the others
    are ``rest``. ``pad`` is what is missing when the spectrum has fewer than :math:`s` modes.
    """

    def __init__(self, spectrum: _Spectrum, n: Tensor, k: Tensor) -> None:
        smaller = torch.minimum(n, k)
        before = spectrum.counts.cumsum(0) - spectrum.counts
        first = (smaller[:, None] - before).clamp_(min=0.0)
        self.first = torch.minimum(first, spectrum.counts, out=first)
        self.rest = spectrum.counts - first
        self.pad = (smaller - spectrum.rank).clamp(min=0.0)
        self.spectrum = spectrum

    def sides(
        self, gamma: Tensor, rows: Any = slice(None)
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums of L over the rest and of H over the first, and both for the product LH."""
        parts = [self._sides(gamma, rows, modes) for modes in _mode_blocks(self.spectrum)]
        rest, high, rest_both, first_both = (sum(part) for part in zip(*parts, strict=True))
        return rest, high + self.pad[rows], rest_both, first_both

    def _sides(self, gamma: Tensor, rows: Any, modes: slice) -> tuple[Tensor, ...]:
        values = self.spectrum.values[modes]
        low = (values + gamma[:, None]).reciprocal_()
        high = low * gamma[:, None]
        low.mul_(values)
        first_high = self.first[rows, modes] * high
        first_both = torch.linalg.vecdot(first_high, low)
        rest_low = low.mul_(self.rest[rows, modes])
        rest_both = torch.linalg.vecdot(rest_low, high)
        return rest_low.sum(1), first_high.sum(1), rest_both, first_both


def _mode_blocks(spectrum: _Spectrum) -> Any:
    count = len(spectrum.values)
    return chunks(count, 1, _MODES) if count else [slice(0, 0)]


def _slacks(gamma: Tensor, n: Tensor, k: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller and the larger of a = n - z and b = k - z, from their product."""
    gap = (k - n).abs()
    finite = torch.isfinite(k)
    product = torch.where(finite, k, 1.0) * delta / gamma
    gap = torch.where(finite, gap, 0.0)
    root = torch.hypot(gap, 2 * product.sqrt())
    small = torch.where(finite, 2 * product / (gap + root), product)
    small = torch.where(product > 0, small, 0.0)
    return small, torch.where(finite, small + gap, math.inf)


def _solve(spectrum: _Spectrum, n: Tensor, k: Tensor, delta: Tensor) -> tuple[Tensor, ...]:
    """Signal error, noise amplification, fitting ratio, kappa and gamma at a block of points."""
    exhausted = (delta == 0) & (spectrum.rank <= torch.minimum(n, k))
    balance = _Balance(spectrum, n, k)
    gamma = _threshold(spectrum, balance, n, k, delta, ~exhausted)
    small, large = _slacks(gamma, n, k, delta)
    fields = _risk(spectrum, gamma, small, large, n, k)
    return _at_rank(spectrum, fields, exhausted, n, k)


def _threshold(
    spectrum: _Spectrum, balance: _Balance, n: Tensor, k: Tensor, delta: Tensor, active: Tensor
) -> Tensor:
    """Solve for gamma where ``active``; 1 elsewhere."""
    gamma = delta / n
    if len(spectrum.values):  # start at the eigenvalue after which the modes are split
        split = torch.searchsorted(spectrum.counts.cumsum(0), torch.minimum(n, k))
        start = spectrum.values[split.clamp(max=len(spectrum.values) - 1)]
        gamma = torch.maximum(gamma, start)
    gamma = torch.where(active, gamma, 1.0)
    log_gamma = gamma.log()
    low = torch.full_like(gamma, -math.inf)
    high = torch.full_like(gamma, math.inf)
    rows = torch.nonzero(active)[:, 0]
    while len(rows):
        at = gamma[rows]
        small, large = _slacks(at, n[rows], k[rows], delta[rows])
        rest, first, rest_both, first_both = balance.sides(at, rows)
        slack_both = torch.where(torch.isfinite(large), small * large / (small + large), small)
        slack_both = torch.where(small > 0, slack_both, 0.0)
        left = rest + small
        excess = torch.log(left / first)
        slope = (rest_both + slack_both) / left + first_both / first
        # The slope lies in [1/2, 2], which turns every value into a bracket.
        here = log_gamma[rows]
        near, far = here + excess / 2, here + 2 * excess
        low[rows] = torch.maximum(low[rows], torch.minimum(near, far))
        high[rows] = torch.minimum(high[rows], torch.maximum(near, far))
        step = excess / slope
        there = here + step
        inside = (there >= low[rows]) & (there <= high[rows])
        there = torch.where(inside, there, (low[rows] + high[rows]) / 2)
        # Close to the root the step moves gamma itself: its logarithm has fewer digits.
        close = step.abs() < 1e-3
        gamma[rows] = torch.where(close, at * torch.exp(step), torch.exp(there))
        log_gamma[rows] = torch.where(close, here + step, there)
        rows = rows[step.abs() > 1e-8]
    return gamma


def _risk(
    spectrum: _Spectrum, gamma: Tensor, small: Tensor, large: Tensor, n: Tensor, k: Tensor
) -> tuple[Tensor, ...]:
    """The errors from gamma and the slacks; sums of positive terms only."""
    parts = []
    for modes in _mode_blocks(spectrum):
        values, powers = spectrum.values[modes], spectrum.powers[modes]
        high = (values + gamma[:, None]).reciprocal_().mul_(gamma[:, None])
        both = (high * (values / (values + gamma[:, None]))) @ spectrum.counts[modes]
        parts.append((high @ powers, both, high.square_() @ powers))
    high_power, variance, high_power2 = (sum(part) for part in zip(*parts, strict=True))
    high_power = high_power + spectrum.null_power
    high_power2 = high_power2 + spectrum.null_power
    over_large = torch.where(large > 0, large.reciprocal(), 0.0)
    scale = n / (small + variance * (1 + small * over_large))
    many_features = n <= k  # then a is the smaller slack
    overfitting = scale * torch.where(
        many_features, 1 + variance * over_large, (small + variance) * over_large
    )
    first = torch.where(many_features, 1.0, small * over_large)[:, None]
    signal = scale[:, None] * (first * high_power2 + (variance * over_large)[:, None] * high_power)
    # Without slack (n = k at ridge 0) whatever is not learned is amplified without bound.
    critical = large == 0
    overfitting = torch.where(critical, math.inf, overfitting)
    signal = torch.where(critical[:, None], torch.where(high_power > 0, math.inf, 0.0), signal)
    a = torch.where(many_features, small, large)
    b = torch.where(many_features, large, small)
    kappa = torch.where(torch.isfinite(k), gamma * b / k, gamma)
    return signal, overfitting, (a / n).square(), kappa, gamma


def _at_rank(
    spectrum: _Spectrum, fields: tuple[Tensor, ...], exhausted: Tensor, n: Tensor, k: Tensor
) -> tuple[Tensor, ...]:
    """Put in the limits at ridge 0 where every mode is learned."""
    signal, overfitting, ratio, kappa, gamma = fields
    free = n - spectrum.rank
    at_rank = torch.where(free > 0, n / free, math.inf)
    unlearned = torch.where(spectrum.null_power > 0, at_rank[:, None] * spectrum.null_power, 0.0)
    if len(spectrum.values):
        # At n = k = rank the slacks and 1 - L vanish together, which leaves a finite error.
        inverse = spectrum.values.reciprocal()
        together = n[:, None] / 3 * (inverse @ spectrum.powers) / (inverse @ spectrum.counts)
        square = ((free == 0) & (k == n))[:, None] & (spectrum.null_power == 0)
        unlearned = torch.where(square, together, unlearned)
    return (
        torch.where(exhausted[:, None], unlearned, signal),
        torch.where(exhausted, at_rank, overfitting),
        torch.where(exhausted, (free / n).square(), ratio),
        torch.where(exhausted, 0.0, kappa),
        torch.where(exhausted, 0.0, gamma),
    )


def _minimize(spectrum: _Spectrum, n: Tensor, k: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """Optimal ridge, test error, train error and fitting ratio at a block of points."""
    balance = _Balance(spectrum, n, k)
    zero = torch.zeros_like(n)
    exhausted = spectrum.rank <= torch.minimum(n, k)
    floor = _threshold(spectrum, balance, n, k, zero, ~exhausted)
    floor = torch.where(exhausted, 0.0, floor)

    def at(log_offset: Tensor) -> tuple[Tensor, ...]:
        gamma = floor + log_offset.exp()
        rest, first, _, _ = balance.sides(gamma)
        small = (first - rest).clamp(min=0.0)
        large = small + (k - n).abs()
        signal, overfitting, ratio, _, _ = _risk(spectrum, gamma, small, large, n, k)
        test, train = (e[:, 0] for e in _errors(signal, overfitting, ratio, noise))
        ridge = gamma * small * torch.where(torch.isfinite(k), large / k, 1.0)
        return ridge, test, train, ratio

    low, high = _search_range(spectrum, floor, n, k, noise)
    best = _scan_and_refine(lambda u: at(u)[1], low, high)
    inner = at(best)
    signal, overfitting, ratio, _, _ = _solve(spectrum, n, k, zero)
    test, train = (e[:, 0] for e in _errors(signal, overfitting, ratio, noise))
    power = (spectrum.powers.sum() + spectrum.null_power.sum() + noise).expand_as(n)
    ends = ((zero, test, train, ratio), (zero + math.inf, power, power, zero + 1.0))
    for end in ends:
        better = end[1] <= inner[1] * (1 + 1e-13)  # a tie up to rounding goes to the end
        inner = tuple(torch.where(better, e, i) for e, i in zip(end, inner, strict=True))
    return inner


def _search_range(
    spectrum: _Spectrum, floor: Tensor, n: Tensor, k: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Log offsets of gamma from its value at ridge 0 between which the minimum lies."""
    values, powers = spectrum.values, spectrum.powers[:, 0]
    tiny = torch.finfo(torch.float64).tiny
    unlearnable = noise + spectrum.null_power.sum()
    total = powers.sum() + unlearnable
    # A weak signal in much noise moves the minimum to about this threshold.
    trace = values @ spectrum.counts
    spread = values.square() @ spectrum.counts + trace.square() / k
    weak = total * spread / (n * (values @ powers).clamp(min=tiny))
    largest = values[0] if len(values) else torch.ones_like(total)
    high = torch.maximum(torch.maximum(weak, floor), largest).clamp(max=1e150) * 1e4
    # Little noise on a target of finite rank moves it to about this one.
    smallest = values[-1] if len(values) else torch.ones_like(total)
    share = (unlearnable / total.clamp(min=tiny)).clamp(1e-30, 1.0)
    low = torch.where(floor > 0, floor * 1e-8, smallest * share * 1e-4)
    return low.clamp(min=tiny).log(), high.log()


def _scan_and_refine(function: Any, low: Tensor, high: Tensor) -> Tensor:
    """Minimize over an interval a row: best cell of a scan, then golden sections."""
    decades = float((high - low).max()) / math.log(10)
    steps = max(32, math.ceil(4 * decades))
    width = (high - low) / steps
    best, best_value = low, function(low)
    for i in range(1, steps + 1):
        here = low + i * width
        value = function(here)
        better = value < best_value
        best, best_value = torch.where(better, here, best), torch.where(better, value, best_value)
    left = torch.maximum(best - width, low)
    right = torch.minimum(best + width, high)
    inner_left = right - _GOLDEN * (right - left)
    inner_right = left + _GOLDEN * (right - left)
    value_left, value_right = function(inner_left), function(inner_right)
    for _ in range(45):
        take_left = value_left < value_right
        left = torch.where(take_left, left, inner_left)
        right = torch.where(take_left, inner_right, right)
        fresh = torch.where(
            take_left, right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        )
        value = function(fresh)
        inner_left, inner_right = (
            torch.where(take_left, fresh, inner_right),
            torch.where(take_left, inner_left, fresh),
        )
        value_left, value_right = (
            torch.where(take_left, value, value_right),
            torch.where(take_left, value_left, value),
        )
    return (left + right) / 2
