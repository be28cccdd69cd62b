"""Calibration that aims at the correctness of each prediction, sample by sample."""

from __future__ import annotations

import math
from typing import Any

import torch

from enough.calibration._base import Calibrator, two_columns
from enough.calibration._inputs import read_logits, row_slices
from enough.calibration.temperature import solve_inverse
from enough.runtime.randomness import as_generator
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = ["CorrectnessAwareCalibration"]


class CorrectnessAwareCalibration(Calibrator):
    """Give each sample its own temperature, trained on the correctness of the top label.

    The confidence ĉ_i = max softmax(z_i/T_i) is fitted to a_i = 1[top label is right] by the
    mean of (ĉ_i − a_i)². T_i comes from a network with one hidden layer that reads features
    of the sample; it lies in [0.1, 10] and starts at the optimal common temperature.

    Parameters
    ----------
    n_top : int, default 4
        Without features of the caller's, the network reads this many largest probabilities.
    hidden : int, default 5
        Width of the hidden layer (rectified linear units).
    weighted : bool, default False
        Weigh right predictions by 1 − accuracy and wrong ones by accuracy, as the published
        code does. The optimum for a group of samples that look alike is then confidence 1/2
        whatever its accuracy, so the result is no longer calibrated.
    steps : int, default 1000
        Adam steps.
    batch_size : int, default 1000
        Samples in a step, drawn without replacement.
    learning_rate : float, default 0.01
        First step size; it falls linearly to 0.
    generator : torch.Generator or int, default 0
        Draws the weights and the batches.

    Attributes
    ----------
    temperature_ : float
        The common temperature at the start, clipped to [0.1, 10].
    loss_ : float
        Training loss at the end; never above the loss of ``temperature_``.

    References
    ----------
    Liu, Wang, Zou, Wang, Zheng (2024), Optimizing calibration by gaining aware of
    prediction correctness, arXiv:2404.13016.
    """

    _LOW, _HIGH = math.log(0.1), math.log(10.0)

    def __init__(
        self,
        n_top: int = 4,
        hidden: int = 5,
        weighted: bool = False,
        steps: int = 1000,
        batch_size: int = 1000,
        learning_rate: float = 0.01,
        generator: torch.Generator | int | None = 0,
    ) -> None:
        self.n_top = n_top
        self.hidden = hidden
        self.weighted = weighted
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.generator = generator

    def fit(self, logits: Any, labels: Any, features: Any = None) -> CorrectnessAwareCalibration:
        """Train the network on held-out data.

        Parameters
        ----------
        logits : array of shape (N, K) or (N,)
            Logits with K >= 2 classes, or log odds of y = 1.
        labels : array of shape (N,)
            Class numbers from 0.
        features : array of shape (N, F), optional
            What the network reads, for example the probabilities that the top classes get
            in transformed views of the sample. Without it: the ``n_top`` largest
            probabilities of the logits themselves.

        Returns
        -------
        CorrectnessAwareCalibration
            The estimator itself.

        Raises
        ------
        ValueError
            If a shape, label or setting is wrong, or an entry is NaN or infinite.
        """
        hidden = check_integer(self.hidden, "hidden", minimum=1)
        steps = check_integer(self.steps, "steps", minimum=0)
        batch = check_integer(self.batch_size, "batch_size", minimum=1)
        rate = check_number(self.learning_rate, "learning_rate", above=0.0)
        check_integer(self.n_top, "n_top", minimum=1)
        logits, labels, _ = read_logits(logits, labels)
        table = two_columns(logits)
        features = self._read_features(features, table)
        self._mean, deviation = features.mean(0), features.std(0, correction=0)
        self._deviation = torch.where(deviation > 0.0, deviation, 1.0)
        inverse = solve_inverse(table, labels)[0]
        common = 0.1 if inverse is None else (1.0 / inverse if inverse else 10.0)
        self.temperature_ = min(max(common, 0.1), 10.0)
        right = (table.argmax(1) == labels).double()
        accuracy = right.mean()
        weight = torch.ones_like(right)
        if self.weighted and 0.0 < accuracy < 1.0:
            weight = torch.where(right > 0.5, 1.0 - accuracy, accuracy)
        with torch.enable_grad():
            generator = as_generator(self.generator)
            self._parameters = self._initialize(features.shape[1], hidden, generator)
            self._parameters = [p.to(table.device).requires_grad_() for p in self._parameters]
            start = [p.detach().clone() for p in self._parameters]
            optimizer = torch.optim.Adam(self._parameters, lr=rate)
            for step in range(steps):
                chosen = torch.randperm(len(labels), generator=generator, device=generator.device)
                chosen = chosen[:batch].to(table.device)
                optimizer.param_groups[0]["lr"] = rate * (1.0 - step / steps)
                optimizer.zero_grad()
                temperature = self._temperature(features[chosen])
                miss = (_confidence(table[chosen].double(), temperature) - right[chosen]).square()
                ((weight[chosen] * miss).sum() / weight[chosen].sum()).backward()
                optimizer.step()
        trained = [p.detach() for p in self._parameters]
        losses = []
        for self._parameters in (start, trained):
            losses.append(self._loss(table, features, right, weight))
        if losses[0] < losses[1]:
            self._parameters = start
        self.loss_ = min(losses)
        self.shape_ = tuple(logits.shape[1:])
        return self

    def transform(self, logits: Any, features: Any = None) -> Any:
        """Return calibrated probabilities; the top label stays what it was.

        Parameters
        ----------
        logits : array of shape (N, K) or (N,)
            As in `fit`, with the same K.
        features : array of shape (N, F), optional
            As in `fit`.

        Returns
        -------
        array
            Probabilities of the same shape, dtype and kind as ``logits``.

        Raises
        ------
        ValueError
            If the calibrator is not fitted, a shape differs from the one in `fit`, or an
            entry is NaN or infinite.
        """
        logits, restore = self._read_again(logits)
        temperature = self.temperatures(logits, features)

        def divide(rows: slice, block: torch.Tensor) -> torch.Tensor:
            return (block / temperature[rows].unsqueeze(1)).softmax(1)

        return restore(self._by_block(logits, divide))

    def temperatures(self, logits: Any, features: Any = None) -> Any:
        """Return the temperature of each sample.

        Parameters
        ----------
        logits : array of shape (N, K) or (N,)
            As in `fit`, with the same K.
        features : array of shape (N, F), optional
            As in `fit`.

        Returns
        -------
        array
            Shape (N,), float64, in [0.1, 10].

        Raises
        ------
        ValueError
            As in `transform`.
        """
        logits, restore = self._read_again(logits)
        features = self._read_features(features, two_columns(logits))
        if features.shape[1] != len(self._mean):
            raise ValueError(
                f"features: expected shape (N, {len(self._mean)}) as in fit, "
                f"got {tuple(features.shape)}"
            )
        return restore(self._temperature(features))

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.fit(logits, labels)

    def _transform(self, logits: torch.Tensor) -> torch.Tensor:
        return self.transform(logits)

    def _read_features(self, features: Any, table: torch.Tensor) -> torch.Tensor:
        if features is None:
            top = min(self.n_top, table.shape[1])
            parts = (
                table[rows].double().softmax(1).topk(top, dim=1).values
                for rows in row_slices(*table.shape, table.device)
            )
            return torch.cat(list(parts))
        (features,), _ = as_tensors(features=features)
        check_tensor(features, "features", shape=(table.shape[0], None))
        return features.detach().to(table.device, torch.float64)

    def _initialize(
        self, n_features: int, hidden: int, generator: torch.Generator
    ) -> list[torch.Tensor]:
        share = (math.log(self.temperature_) - self._LOW) / (self._HIGH - self._LOW)
        share = min(max(share, 1e-3), 1.0 - 1e-3)
        options = {"dtype": torch.float64, "generator": generator, "device": generator.device}
        return [
            torch.randn(n_features, hidden, **options) * math.sqrt(2.0 / n_features),
            torch.zeros(hidden, dtype=torch.float64),
            torch.zeros(hidden, dtype=torch.float64),
            torch.tensor(math.log(share / (1.0 - share)), dtype=torch.float64),
        ]

    def _temperature(self, features: torch.Tensor) -> torch.Tensor:
        first, shift, last, offset = self._parameters
        units = torch.relu((features - self._mean) / self._deviation @ first + shift)
        share = torch.sigmoid(units @ last + offset)
        return torch.exp(self._LOW + (self._HIGH - self._LOW) * share)

    def _loss(
        self,
        table: torch.Tensor,
        features: torch.Tensor,
        right: torch.Tensor,
        weight: torch.Tensor,
    ) -> float:
        total = 0.0
        temperature = self._temperature(features)
        for rows in row_slices(*table.shape, table.device):
            confidence = _confidence(table[rows].double(), temperature[rows])
            total += (weight[rows] * (confidence - right[rows]).square()).sum().item()
        return total / weight.sum().item()


def _confidence(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    return (logits / temperature.unsqueeze(1)).softmax(1).amax(1)
