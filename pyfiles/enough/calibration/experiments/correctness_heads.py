"""Small networks that give each sample its own temperature, tuned and trained as one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from enough.models import MLP
from enough.runtime import derive_seed
from enough.runtime.validation import check_choice, check_integer, check_number, check_tensor
from enough.training import EarlyStopping, Ensemble

__all__ = ["TemperatureHeads"]

_LOW, _HIGH = math.log(0.1), math.log(10.0)
_EVALUATE_EVERY, _PATIENCE = 5, 6  # stop after 30 updates without improvement
_GRID_END = 0.0025  # share of the range of log T
_LOSSES = ("ce", "mse", "ca")


class TemperatureHeads:
    """Give each sample its own temperature, by small networks that train as one batch.

    There is one problem a member: features, logits and labels of its own. Each problem's
    calibration set is cut into folds; for every fold and every weight decay one network trains
    on the other folds and stops early on that one. The weight decay with the lowest loss over
    all folds wins, and its networks' log temperatures are averaged. Test data is never seen.

    Parameters
    ----------
    loss : {"ce", "mse", "ca"}, default "ca"
        Cross-entropy; squared distance between the probabilities and the one-hot label; or
        squared distance between the top probability and the correctness, as in
        `enough.calibration.CorrectnessAwareCalibration`.
    weighted : bool, default False
        Weigh right samples by 1 − accuracy and wrong ones by accuracy.
    hidden : int, default 5
        Hidden rectified linear units.
    weight_decays : sequence of float, default (0.1, 1.0)
        Candidates, decoupled from the gradient (AdamW).
    folds : int, default 3
        Parts of the calibration set, two or more.
    steps : int, default 120
        Largest number of updates, each on all samples.
    learning_rate : float, default 0.01
        Step size of AdamW.
    seed : int, default 0
        Seed of weights.

    Attributes
    ----------
    weight_decay_ : numpy.ndarray, shape (E,)
        The weight decay that won.
    loss_ : numpy.ndarray, shape (E,)
        Its loss, each fold by the network that did not train on it.
    start_ : numpy.ndarray, shape (E,)
        Common temperature with the lowest loss, where every network starts.
    steps_ : numpy.ndarray, shape (E,)
        Updates after which the networks stopped, mean over the folds.

    Notes
    -----
    As in the library's calibrator, log T = log 0.1 + (log 10 − log 0.1) sigmoid(s), the last
    layer starts at zero, and features are standardized.

    References
    ----------
    Liu, Wang, Zou, Zou, Zheng (2024), Optimizing calibration by gaining aware of prediction
    correctness, arXiv:2404.13016.
    """

    def __init__(
        self,
        loss: str = "ca",
        weighted: bool = False,
        hidden: int = 5,
        weight_decays: Sequence[float] = (0.1, 1.0),
        folds: int = 3,
        steps: int = 120,
        learning_rate: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.loss = check_choice(loss, "loss", _LOSSES)
        self.weighted = bool(weighted)
        self.hidden = check_integer(hidden, "hidden", minimum=1)
        self.weight_decays = [
            check_number(decay, "weight_decays", minimum=0.0) for decay in weight_decays
        ]
        if not self.weight_decays:
            raise ValueError("weight_decays: expected at least one number, got none")
        self.folds = check_integer(folds, "folds", minimum=2)
        self.steps = check_integer(steps, "steps", minimum=1)
        self.learning_rate = check_number(learning_rate, "learning_rate", above=0.0)
        self.seed = check_integer(seed, "seed", minimum=0)

    def fit(self, features: Tensor, logits: Tensor, labels: Tensor) -> TemperatureHeads:
        """Train the networks of all members.

        Parameters
        ----------
        features : torch.Tensor, shape (E, N, F)
            What the networks read.
        logits : torch.Tensor, shape (E, N, K)
            Logits to be scaled.
        labels : torch.Tensor, shape (E, N)
            Class numbers from 0.

        Returns
        -------
        TemperatureHeads
            This object.

        Raises
        ------
        ValueError
            If shapes do not fit, or there are fewer samples than folds.
        """
        check_tensor(features, "features", ndim=3, floating=True)
        size, n_samples, width = features.shape
        check_tensor(logits, "logits", shape=(size, n_samples, None), floating=True)
        check_tensor(
            labels, "labels", shape=(size, n_samples), minimum=0, maximum=logits.shape[-1] - 1
        )
        if n_samples < self.folds:
            raise ValueError(f"features: expected {self.folds} samples or more, got {n_samples}")
        self._mean = features.mean(1, keepdim=True)
        deviation = features.std(1, correction=0, keepdim=True)
        self._deviation = torch.where(deviation > 0.0, deviation, 1.0)
        targets = self._pack(logits, labels)
        inputs = (features - self._mean) / self._deviation
        # Samples come in random order; fold f is every folds-th sample, equal in size.
        even = n_samples // self.folds * self.folds
        order = torch.arange(even, device=features.device).reshape(-1, self.folds)
        outside = torch.stack(
            [
                order[:, [g for g in range(self.folds) if g != f]].flatten()
                for f in range(self.folds)
            ]
        )
        copies = len(self.weight_decays)

        def spread(data: Tensor, rows: Tensor) -> Tensor:
            """One set for each (member, fold, weight decay): (E * folds * decays, n, ...)."""
            parts = data[:, rows]  # (E, folds, n, ...)
            return parts.flatten(0, 1).repeat_interleave(copies, 0)

        ensemble = self._networks(width, size * self.folds * copies, features)
        ensemble.fit(
            spread(inputs, outside),
            spread(targets, outside),
            loss=_MEMBER_LOSSES[self.loss],
            optimizer="adamw",
            lr=self.learning_rate,
            weight_decay=self.weight_decays * (size * self.folds),
            steps=self.steps,
            validation=(spread(inputs, order.T), spread(targets, order.T)),
            evaluate_every=_EVALUATE_EVERY,
            early_stopping=EarlyStopping(_PATIENCE),
            per_member=True,
            progress=False,
        )
        losses = ensemble.best_loss_.reshape(size, self.folds, copies).mean(1)
        choice = losses.argmin(1)
        self.loss_ = losses.min(1)
        self.weight_decay_ = np.array(self.weight_decays)[choice]
        stopped = ensemble.best_step_.reshape(size, self.folds, copies).mean(1)
        self.steps_ = stopped[np.arange(size), choice]
        chosen = (np.arange(size * self.folds) * copies) + np.repeat(choice, self.folds)
        rows = torch.as_tensor(chosen, device=features.device)
        self._chosen = self._networks(width, len(chosen), features)
        self._chosen.load_state_dict(
            {name: values[rows] for name, values in ensemble.state_dict().items()}
        )
        return self

    def temperatures(self, features: Tensor) -> Tensor:
        """Return the temperature of each sample.

        Parameters
        ----------
        features : torch.Tensor, shape (E, N, F)
            As in `fit`, with the same E and F.

        Returns
        -------
        torch.Tensor, shape (E, N)
            In [0.1, 10].

        Raises
        ------
        ValueError
            If the shape differs from the one in `fit`, or `fit` was not called.
        """
        if not hasattr(self, "loss_"):
            raise ValueError("TemperatureHeads: call fit before temperatures")
        size, _, width = self._mean.shape
        check_tensor(features, "features", shape=(size, None, width), floating=True)
        inputs = ((features - self._mean) / self._deviation).repeat_interleave(self.folds, 0)
        raw = self._chosen.predict(inputs, per_member=True)[..., 0]
        raw = raw.unflatten(0, (size, self.folds)) + self._offset[:, None, None]
        return _log_temperature(raw).mean(1).exp()

    def _networks(self, n_features: int, count: int, like: Tensor) -> Ensemble:
        return Ensemble(
            lambda generator: _head(n_features, self.hidden, generator),
            size=count,
            seed=derive_seed(self.seed, "heads"),
            mode="stacked",
            device=like.device,
            dtype=like.dtype,
        )

    def _pack(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Put what the loss needs of a sample into one row: (E, N, K + 4)."""
        top, where = logits.max(-1, keepdim=True)
        behind = logits.gather(-1, labels[..., None]) - top
        right = (where == labels[..., None]).to(logits.dtype)
        weight = torch.ones_like(right)
        if self.weighted:
            accuracy = right.mean(1, keepdim=True)
            mixed = (accuracy > 0.0) & (accuracy < 1.0)
            balanced = torch.where(right > 0.5, 1.0 - accuracy, accuracy)
            weight = torch.where(mixed, balanced, weight)
        rows = torch.cat([logits - top, behind, right, weight, torch.zeros_like(right)], dim=-1)
        # The start: the best common temperature on a grid, 2 % from one to the next.
        shares = torch.linspace(_GRID_END, 1.0 - _GRID_END, 233, dtype=torch.float64)
        grid = torch.logit(shares).to(logits)
        loss = torch.func.vmap(_MEMBER_LOSSES[self.loss])
        losses = torch.stack([loss(raw.expand_as(right), rows) for raw in grid])
        offset = grid[losses.argmin(0)]
        self.start_ = _log_temperature(offset).exp().double().cpu().numpy()
        rows[..., -1] = offset[:, None]
        self._offset = offset
        return rows


def _head(n_features: int, hidden: int, generator: torch.Generator) -> nn.Module:
    head = MLP([n_features, hidden, 1], gains=(1.0, 1.0), generator=generator)
    nn.init.zeros_(head.layers[-1].weight)
    return head


def _log_temperature(raw: Tensor) -> Tensor:
    return _LOW + (_HIGH - _LOW) * torch.sigmoid(raw)


def _parts(prediction: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Return weights e^(scaled logits) with the top class at 1, their sum, and the row's rest."""
    inverse = torch.exp(-_log_temperature(prediction[..., 0] + target[..., -1]))
    parts = torch.exp(target[..., :-4] * inverse[..., None])
    return parts, parts.sum(-1), target[..., -4] * inverse, target[..., -3], target[..., -2]


def _cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    _, total, label, _, weight = _parts(prediction, target)
    return (weight * (total.log() - label)).sum() / weight.sum()


def _squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    parts, total, label, _, weight = _parts(prediction, target)
    miss = parts.square().sum(-1) / total.square() - 2.0 * label.exp() / total + 1.0
    return (weight * miss).sum() / weight.sum()


def _correctness(prediction: Tensor, target: Tensor) -> Tensor:
    _, total, _, right, weight = _parts(prediction, target)
    return (weight * (1.0 / total - right).square()).sum() / weight.sum()


_MEMBER_LOSSES = {"ce": _cross_entropy, "mse": _squared_error, "ca": _correctness}
