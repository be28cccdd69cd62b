"""Affine maps of logits or of log probabilities, fitted by their log loss."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.optimize import minimize

from enough.calibration._base import Calibrator
from enough.calibration._inputs import row_slices
from enough.calibration.temperature import solve_inverse
from enough.runtime.validation import check_integer, check_number

__all__ = ["DirichletCalibration", "MatrixScaling", "VectorScaling"]

# Below this training loss the logits are called separable: the true infimum is 0.
_SEPARABLE_LOSS = 1e-6


class _AffineCalibrator(Calibrator):
    """softmax(W φ(z) + v), convex in W and v, started at the optimal temperature."""

    diagonal = False

    def _features(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def _penalties(self) -> tuple[float, float]:
        return 0.0, 0.0

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        penalties = self._penalties()
        max_iter = check_integer(self.max_iter, "max_iter", minimum=1)
        n_classes = logits.shape[1]
        inverse = solve_inverse(logits, labels)[0]
        # Search in whitened features: W φ + v = W' A (φ − μ) + v', with cov(A φ) near 1.
        mean, whiten, unwhiten = self._whitening(logits)
        if self.diagonal:
            apply, start = np.multiply, np.ones(n_classes)
        else:
            apply, start = np.matmul, np.eye(n_classes)
        start = (1.0 if inverse is None else inverse) * start
        shape, outside = start.shape, 1.0 - np.eye(n_classes)

        def original(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            weight = apply(flat[:-n_classes].reshape(shape), whiten)
            return weight, flat[-n_classes:] - apply(weight, mean)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weight, shift = original(flat)
            loss, by_weight, by_shift = self._loss(logits, labels, weight, shift)
            if not self.diagonal:
                off = weight * outside
                scales = penalties[0] / outside.sum(), penalties[1] / n_classes
                loss += scales[0] * np.square(off).sum() + scales[1] * np.square(shift).sum()
                by_weight = by_weight + 2.0 * scales[0] * off
                by_shift = by_shift + 2.0 * scales[1] * shift
            through = by_shift * mean if self.diagonal else np.outer(by_shift, mean)
            by_weight = apply(by_weight - through, whiten.T)
            return loss, np.concatenate([by_weight.ravel(), by_shift])

        found = minimize(
            objective,
            np.concatenate([apply(start, unwhiten).ravel(), apply(start, mean)]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iter, "maxfun": 2 * max_iter, "gtol": 1e-8, "ftol": 1e-15},
        )
        if found.fun < _SEPARABLE_LOSS:
            warnings.warn(
                "logits: the classes are separable, so the log loss has no minimum; stopped at "
                f"a loss of {found.fun:.1e}",
                UserWarning,
                stacklevel=3,
            )
        elif found.nit >= max_iter:
            warnings.warn(
                f"max_iter: the fit did not converge in {max_iter} iterations",
                UserWarning,
                stacklevel=3,
            )
        self.weight_, shift = original(found.x)
        self.intercept_ = shift - shift.mean()
        self.n_iter_ = int(found.nit)

    def _whitening(self, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the features' mean, a map A that whitens them, and its inverse."""
        n_samples, n_classes = logits.shape
        mean = torch.zeros(n_classes, dtype=torch.float64, device=logits.device)
        for rows in row_slices(n_samples, n_classes, logits.device):
            mean += self._features(logits[rows].double()).sum(0) / n_samples
        second = torch.zeros(n_classes, n_classes, dtype=torch.float64, device=logits.device)
        for rows in row_slices(n_samples, n_classes, logits.device):
            features = self._features(logits[rows].double()) - mean
            second += features.T @ features / n_samples
        mean, second = mean.cpu().numpy(), second.cpu().numpy()
        if self.diagonal:
            deviation = np.sqrt(np.diag(second))
            deviation[deviation == 0.0] = 1.0
            return mean, 1.0 / deviation, deviation
        power, axes = np.linalg.eigh(second)
        # Directions the features hardly use keep a moderate scale.
        deviation = np.sqrt(np.maximum(power, 1e-4 * (power[-1] or 1.0)))
        return mean, axes / deviation @ axes.T, axes * deviation @ axes.T

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, weight: np.ndarray, shift: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the mean log loss and its gradients."""
        n_samples, n_classes = logits.shape
        weight, shift = (torch.as_tensor(x, device=logits.device) for x in (weight, shift))
        loss = torch.zeros((), dtype=torch.float64, device=logits.device)
        by_weight, by_shift = torch.zeros_like(weight), torch.zeros_like(shift)
        for rows in row_slices(n_samples, n_classes, logits.device):
            features, target = self._features(logits[rows].double()), labels[rows].unsqueeze(1)
            log_probs = self._map(features, weight, shift).log_softmax(1)
            loss -= log_probs.gather(1, target).sum()
            residual = log_probs.exp_()
            residual.scatter_add_(1, target, -torch.ones_like(residual[:, :1]))
            by_shift += residual.sum(0)
            if self.diagonal:
                by_weight += (residual * features).sum(0)
            else:
                by_weight += residual.T @ features
        gradients = (x.cpu().numpy() / n_samples for x in (by_weight, by_shift))
        return loss.item() / n_samples, *gradients

    def _map(
        self, features: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor
    ) -> torch.Tensor:
        return (features * weight if self.diagonal else features @ weight.T) + shift

    def _transform(self, logits: torch.Tensor) -> torch.Tensor:
        weight, shift = (
            torch.as_tensor(x, device=logits.device) for x in (self.weight_, self.intercept_)
        )
        return self._map(self._features(logits), weight, shift).softmax(1)


class VectorScaling(_AffineCalibrator):
    """Scale and shift each logit: softmax(w ∘ z + v).

    Unlike softmax itself, the map notices a constant added to a row of logits.

    Parameters
    ----------
    max_iter : int, default 2000
        Most L-BFGS iterations; the fit warns when it needs more.

    Attributes
    ----------
    weight_ : numpy.ndarray
        w, shape (K,).
    intercept_ : numpy.ndarray
        v, shape (K,), mean 0.
    n_iter_ : int
        Iterations made.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks, 4.2.
    """

    diagonal = True

    def __init__(self, max_iter: int = 2000) -> None:
        self.max_iter = max_iter


class MatrixScaling(_AffineCalibrator):
    """Map logits by a full matrix: softmax(W z + v).

    Parameters
    ----------
    off_diagonal : float, default 0.0
        Weight of the mean square of the off-diagonal entries of W, added to the mean loss.
    intercept : float, default 0.0
        Weight of the mean square of v. With K² parameters, small data need both penalties.
    max_iter : int, default 2000
        Most L-BFGS iterations; the fit warns when it needs more.

    Attributes
    ----------
    weight_ : numpy.ndarray
        W, shape (K, K).
    intercept_ : numpy.ndarray
        v, shape (K,), mean 0.
    n_iter_ : int
        Iterations made.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017), 4.2. Kull et al. (2019), Beyond temperature
    scaling, for the two penalties (ODIR).
    """

    def __init__(
        self, off_diagonal: float = 0.0, intercept: float = 0.0, max_iter: int = 2000
    ) -> None:
        self.off_diagonal = off_diagonal
        self.intercept = intercept
        self.max_iter = max_iter

    def _penalties(self) -> tuple[float, float]:
        return (
            check_number(self.off_diagonal, "off_diagonal", minimum=0.0),
            check_number(self.intercept, "intercept", minimum=0.0),
        )


class DirichletCalibration(MatrixScaling):
    """Map log probabilities by a full matrix: softmax(W log softmax(z) + v).

    For two classes this is beta calibration without the sign constraint.

    Parameters
    ----------
    off_diagonal : float, default 0.0
        Weight of the mean square of the off-diagonal entries of W, added to the mean loss.
    intercept : float, default 0.0
        Weight of the mean square of v.
    max_iter : int, default 2000
        Most L-BFGS iterations; the fit warns when it needs more.

    Attributes
    ----------
    weight_ : numpy.ndarray
        W, shape (K, K).
    intercept_ : numpy.ndarray
        v, shape (K,), mean 0.
    n_iter_ : int
        Iterations made.

    References
    ----------
    Kull et al. (2019), Beyond temperature scaling: obtaining well-calibrated multi-class
    probabilities with Dirichlet calibration.
    """

    def _features(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(1)
