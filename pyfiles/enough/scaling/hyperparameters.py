"""Laws of optimal hyper-parameters, and of the batch size beyond which data are wasted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enough.scaling._models import DifferentiableModel
from enough.scaling._table import distinct, read_columns, read_weights
from enough.scaling.fit import Fit, solve
from enough.scaling.laws import Law

__all__ = ["CriticalBatchLaw", "HyperparameterLaw"]


class HyperparameterLaw(Law):
    """y = c Π_j x_j^(e_j): an optimal learning rate or batch size as a product of powers.

    The step law is of this form: learning rate c N^a D^b, batch size c D^b. Parameters are ``c``
    and one exponent a column, named after it.
    """

    target = "value"

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        columns: Sequence[str] = ("params", "tokens"),
        target: str = "value",
        huber_delta: float = float("inf"),
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit the law by least squares of the logarithms, or by a Huber loss.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            The named columns, positive.
        columns : sequence of str, default ("params", "tokens")
            Factors.
        target : str, default "value"
            The column to predict, such as ``"learning_rate"``.
        huber_delta : float, default inf
            Width of the quadratic zone; ``inf`` gives least squares.
        weights : array_like, shape (n,), optional
            Weights of the rows.
        bootstrap : int, default 0
            Replicas of the rows.
        generator : torch.Generator or int, optional
            Source of the replicas.
        groups : array_like, shape (n,), optional
            Rows with equal labels are resampled together.

        Returns
        -------
        Fit
            The fitted law.

        Raises
        ------
        ValueError
            If no column is named, or one is missing, constant, too short, not finite or not
            positive.
        """
        names = list(columns)
        if not names:
            raise ValueError("columns: expected at least one name, got none")
        table = read_columns(data, [*names, target], rows=len(names) + 1, positive=[*names, target])
        for name in names:
            if distinct(table[name]) < 2:
                raise ValueError(f"{name}: expected at least two different values, got one")
        logs = torch.stack([table[name].log() for name in names], -1)
        centers = logs.mean(0)
        design = torch.cat([torch.ones(len(logs), 1, dtype=torch.float64), logs - centers], -1)
        y, weight = table[target].log(), read_weights(weights, len(logs))
        root = weight.sqrt()
        start = torch.linalg.lstsq(design * root[:, None], (y * root)[:, None]).solution[:, 0]

        def read(theta: Tensor) -> dict[str, Tensor]:
            shift = (theta[:, 1:] * centers).sum(-1)
            return {"c": (theta[:, 0] - shift).exp()} | dict(zip(names, theta.T[1:], strict=True))

        return solve(
            cls, DifferentiableModel(lambda theta: design @ theta), start[None], y, weight, read,
            {"c": "log"} | dict.fromkeys(names, "log"),
            huber_delta=huber_delta, logarithmic=True, bootstrap=bootstrap, generator=generator,
            groups=groups,
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return c Π_j x_j^(e_j).

        Parameters
        ----------
        params : mapping of str to float
            c and one exponent a column.
        data : pandas.DataFrame or mapping
            These columns.
        **settings
            None.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted values.
        """
        names = [name for name in params if name != "c"]
        table = read_columns(data, names, positive=names)
        log = sum(params[name] * table[name].log() for name in names)
        return (params["c"] * torch.as_tensor(log).exp()).numpy()


class CriticalBatchLaw(Law):
    """S = S_min (1 + B_crit/B): steps to reach a loss, as a function of the batch size [1]_.

    Columns ``batch`` B and ``steps`` S. E = S B examples are then E_min (1 + B/B_crit) with
    E_min = S_min B_crit.

    References
    ----------
    .. [1] S. McCandlish et al., An Empirical Model of Large-Batch Training, equation 2.11.
    """

    columns = ("batch",)
    target = "steps"
    symbols = ("S_min", "B_crit")

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        huber_delta: float = float("inf"),
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit the law by least squares of the logarithms, or by a Huber loss.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            Columns batch and steps, positive.
        huber_delta : float, default inf
            Width of the quadratic zone; ``inf`` gives least squares.
        weights : array_like, shape (n,), optional
            Weights of the rows.
        bootstrap : int, default 0
            Replicas of the rows.
        generator : torch.Generator or int, optional
            Source of the replicas.
        groups : array_like, shape (n,), optional
            Rows with equal labels are resampled together.

        Returns
        -------
        Fit
            The fitted law.

        Raises
        ------
        ValueError
            If a column is missing, constant, too short, not finite or not positive.
        """
        names = (*cls.columns, cls.target)
        table = read_columns(data, names, rows=2, positive=names)
        batch, y = table["batch"].log(), table["steps"].log()
        if distinct(table["batch"]) < 2:
            raise ValueError("batch: expected at least two different values, got one")
        weight, center = read_weights(weights, len(y)), batch.mean()
        x = batch - center

        def function(theta: Tensor) -> Tensor:
            return theta[0] + torch.nn.functional.softplus(theta[1] - x)

        ratios = torch.linspace(-10, 10, 81, dtype=torch.float64)
        shape = torch.nn.functional.softplus(ratios[:, None] - x)
        level = ((y - shape) * weight).sum(-1) / weight.sum()
        score = (weight * (level[:, None] + shape - y).square()).sum(-1)
        at = score.argsort()[:4]
        return solve(
            cls, DifferentiableModel(function), torch.stack([level[at], ratios[at]], -1), y, weight,
            lambda t: {"S_min": t[:, 0].exp(), "B_crit": (t[:, 1] + center).exp()},
            {"S_min": "log", "B_crit": "log"},
            huber_delta=huber_delta, logarithmic=True, bootstrap=bootstrap, generator=generator,
            groups=groups,
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return the number of steps.

        Parameters
        ----------
        params : mapping of str to float
            S_min, B_crit.
        data : pandas.DataFrame or mapping
            Column batch.
        **settings
            None.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted steps.
        """
        batch = read_columns(data, cls.columns, positive=cls.columns)["batch"]
        return (params["S_min"] * (1 + params["B_crit"] / batch)).numpy()
