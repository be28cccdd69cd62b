"""The contract of every calibrator: fit(logits, labels), transform(logits) -> probs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from enough.calibration._inputs import map_blocks, read_logits

__all__ = ["BinaryCalibrator", "Calibrator", "check_fitted", "log_odds", "two_columns"]


class Calibrator(BaseEstimator, ABC):
    """Base of the calibrators.

    A subclass fits on logits (N, K) and maps blocks of float64 logits to probabilities.
    Binary log odds (N,) become the two columns (0, s) and come back as P(y = 1).

    Attributes
    ----------
    shape_ : tuple of int
        (K,), or () for binary log odds.
    """

    def fit(self, logits: Any, labels: Any) -> Calibrator:
        """Learn the map on held-out data.

        Parameters
        ----------
        logits : array of shape (N, K) or (N,)
            Logits with K >= 2 classes, or log odds of y = 1.
        labels : array of shape (N,)
            Class numbers from 0.

        Returns
        -------
        Calibrator
            The estimator itself.

        Raises
        ------
        ValueError
            If a shape or label is wrong, or a logit is NaN or infinite.
        """
        logits, labels, _ = read_logits(logits, labels)
        self._fit(two_columns(logits), labels)
        self.shape_ = tuple(logits.shape[1:])
        return self

    def transform(self, logits: Any) -> Any:
        """Return calibrated probabilities.

        Parameters
        ----------
        logits : array of shape (N, K) or (N,)
            As in `fit`, with the same K.

        Returns
        -------
        array
            Probabilities of the same shape, dtype and kind as ``logits``; rows sum to 1.

        Raises
        ------
        ValueError
            If the calibrator is not fitted, the shape differs from the one in `fit`, or a
            logit is NaN or infinite.
        """
        logits, restore = self._read_again(logits)
        return restore(self._by_block(logits, lambda rows, block: self._transform(block)))

    def fit_transform(self, logits: Any, labels: Any) -> Any:
        """Fit, then transform the same logits.

        Parameters
        ----------
        logits : array of shape (N, K) or (N,)
            As in `fit`.
        labels : array of shape (N,)
            Class numbers from 0.

        Returns
        -------
        array
            What `transform` returns.
        """
        return self.fit(logits, labels).transform(logits)

    def _read_again(self, logits: Any) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
        """Check logits after the fit."""
        check_fitted(self)
        logits, _, restore = read_logits(logits)
        if tuple(logits.shape[1:]) != self.shape_:
            wanted = ", ".join(["N", *map(str, self.shape_)]) + ("" if self.shape_ else ",")
            raise ValueError(
                f"logits: expected shape ({wanted}) as in fit, got {tuple(logits.shape)}"
            )
        return logits, restore

    def _by_block(
        self, logits: torch.Tensor, function: Callable[[slice, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Map (rows, float64 logits (n, K)) to probabilities, one block of rows at a time."""
        result = torch.empty_like(logits)

        def fill(slices: list[slice]) -> None:
            for rows in slices:
                probs = function(rows, two_columns(logits[rows]).double())
                result[rows] = (probs if logits.ndim == 2 else probs[:, 1]).to(logits.dtype)

        map_blocks(fill, logits.shape[0], logits[0].numel(), logits.device)
        return result

    @abstractmethod
    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Learn from logits (N, K) of any floating dtype and int64 labels (N,)."""

    @abstractmethod
    def _transform(self, logits: torch.Tensor) -> torch.Tensor:
        """Map float64 logits (n, K) to probabilities (n, K)."""


class BinaryCalibrator(Calibrator):
    """Base of the calibrators of one probability.

    With two classes one map is fitted to the log odds of class 1. With more, one map a
    class is fitted to the log odds of that class against the rest, and the results are
    divided by their sum (Zadrozny and Elkan 2002); a row of zeros becomes uniform.
    """

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        n_classes = logits.shape[1]
        odds = log_odds(logits.double())
        columns = [1] if n_classes == 2 else range(n_classes)
        self._maps = [self._fit_one(odds[:, j], (labels == j).double()) for j in columns]

    def _transform(self, logits: torch.Tensor) -> torch.Tensor:
        odds = log_odds(logits)
        if len(self._maps) == 1:
            positive = self._apply_one(self._maps[0], odds[:, 1])
            return torch.stack([1.0 - positive, positive], 1)
        parts = [self._apply_one(one, odds[:, j]) for j, one in enumerate(self._maps)]
        probs = torch.stack(parts, 1)
        total = probs.sum(1, keepdim=True)
        return torch.where(total > 0.0, probs / total, 1.0 / probs.shape[1])

    @abstractmethod
    def _fit_one(self, odds: torch.Tensor, outcomes: torch.Tensor) -> Any:
        """Fit one map from log odds (N,) to outcomes in {0., 1.}."""

    @abstractmethod
    def _apply_one(self, one: Any, odds: torch.Tensor) -> torch.Tensor:
        """Map log odds (n,) to probabilities (n,)."""


def two_columns(logits: torch.Tensor) -> torch.Tensor:
    """Return logits of shape (N, K); log odds (N,) become the columns (0, s).

    Parameters
    ----------
    logits : torch.Tensor
        Shape (N, K) or (N,).

    Returns
    -------
    torch.Tensor
        Shape (N, K), with K = 2 for (N,).
    """
    return logits if logits.ndim == 2 else torch.stack([torch.zeros_like(logits), logits], 1)


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Return log(p_j / (1 − p_j)) of each class without cancellation.

    Parameters
    ----------
    logits : torch.Tensor
        Shape (N, K), float64.

    Returns
    -------
    torch.Tensor
        Shape (N, K): z_j minus the log-sum-exp of the other logits.
    """
    if logits.shape[1] == 2:
        difference = logits[:, 1] - logits[:, 0]
        return torch.stack([-difference, difference], 1)
    log_probs = logits.log_softmax(1)
    odds = log_probs - torch.log1p(-log_probs.exp())
    # For the largest class 1 − p cancels: sum the others instead.
    top = logits.argmax(1, keepdim=True)
    rest = logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    return odds.scatter_(1, top, logits.gather(1, top) - rest)


def check_fitted(estimator: Any) -> None:
    """Complain when ``fit`` was not called.

    Parameters
    ----------
    estimator : object
        A calibrator; `fit` sets ``shape_``.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        A ``ValueError`` that names the class.
    """
    if not hasattr(estimator, "shape_"):
        raise NotFittedError(f"{type(estimator).__name__}: call fit before transform")
