"""The contract of a scaling law, and the laws that are sums of power laws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from enough.runtime.validation import check_choice, check_integer
from enough.scaling._models import Model, PowerSum
from enough.scaling._starts import best_distinct, separable_least_squares
from enough.scaling._table import distinct, read_columns, read_weights
from enough.scaling.fit import Fit, solve

__all__ = ["AverageParametersLaw", "ChinchillaLaw", "Law", "OverTrainingLaw", "PowerLaw"]

_GRIDS = {1: 201, 2: 41, 3: 15}  # points an exponent, by the number of exponents


class Law:
    """A formula for a loss, with one way to fit it and one way to evaluate it.

    Attributes
    ----------
    columns : tuple of str
        What a table needs beside ``target``.
    target : str
        The column that the law predicts.
    symbols : tuple of str
        Names of the parameters, as in the law's paper.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[str] = "loss"
    symbols: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, data: Any, **options: Any) -> Fit:
        """Fit the law to a table; each law documents its options.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            The law's columns and its target.
        **options
            See the law.

        Returns
        -------
        Fit
            The fitted law.
        """
        raise NotImplementedError

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return the law's value.

        Parameters
        ----------
        params : mapping of str to float
            All of `symbols`.
        data : pandas.DataFrame or mapping
            The law's columns.
        **settings
            See the law.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted target.
        """
        raise NotImplementedError


class _PowerSumLaw(Law):
    """Σ_k coefficient_k Π_j column_j^(sign_j exponent_j), all coefficients positive."""

    #: One entry a term: the coefficient's symbol and its factors (column, exponent, sign).
    terms: ClassVar[tuple[tuple[str, tuple[tuple[str, str, int], ...]], ...]] = ()

    @classmethod
    def _read(cls, data: Any, rows: int | None, target: bool) -> dict[str, Tensor]:
        names = [*cls.columns, cls.target] if target else cls.columns
        return read_columns(data, names, rows=rows, positive=names)

    @classmethod
    def _terms(cls, floor: bool) -> tuple:
        return cls.terms if floor else tuple(term for term in cls.terms if term[1])

    @classmethod
    def _check_design(cls, columns: Mapping[str, Tensor]) -> None:
        """Refuse tables that no amount of arithmetic can make informative."""
        for name in cls.columns:
            if distinct(columns[name]) < 2:
                raise ValueError(
                    f"{name}: expected at least two different values, got "
                    f"{columns[name][0].item():g} in every row"
                )
        loss = columns[cls.target]
        if (loss.max() / loss.min()).log() < 1e-9:
            raise ValueError(
                f"{cls.target}: expected values that differ, got {loss[0].item():g} in every row"
            )
        if len(cls.columns) == 2:
            first, second = (columns[name].log() for name in cls.columns)
            first, second = first - first.mean(), second - second.mean()
            rest = second - first * (first @ second) / (first @ first)
            if rest.abs().max() < 0.02:
                ratio = (columns[cls.columns[1]] / columns[cls.columns[0]]).log().mean().exp()
                raise ValueError(
                    f"{cls.columns[1]}: expected several ratios to {cls.columns[0]}, got one line, "
                    f"{cls.columns[1]} near {ratio.item():.3g} x {cls.columns[0]}"
                )

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        huber_delta: float = 1e-3,
        residuals: str = "log",
        floor: bool = True,
        starts: int = 8,
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit the law by a Huber loss, to the global optimum.

        For every point of a grid over the exponents the coefficients follow in closed form
        (variable projection); the best grid points are the starts of a Newton method on the
        exact objective Σ_i w_i Huber_δ(r_i).

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            The law's columns and its target, all positive.
        huber_delta : float, default 1e-3
            Width δ of the quadratic zone; ``inf`` gives least squares.
        residuals : {"log", "raw"}, default "log"
            Whether r is the difference of logarithms or of values.
        floor : bool, default True
            Whether the law has its constant term.
        starts : int, default 8
            Grid points to start from.
        weights : array_like, shape (n,), optional
            Weights of the rows.
        bootstrap : int, default 0
            Replicas of the rows, each fitted from the optimum.
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
            If a column is missing, has too few rows, or holds NaN, infinities or values that are
            not positive; if a column or the target is constant; if two columns lie on one line in
            the logarithms (such as tokens = 20 × params), so that no fit can tell them apart.

        Warns
        -----
        IdentifiabilityWarning
            If the data do not determine a parameter.
        """
        starts = check_integer(starts, "starts", minimum=1)
        raw = check_choice(residuals, "residuals", ("log", "raw")) == "raw"
        terms = cls._terms(floor)
        exponents = _unique(e for _, factors in terms for _, e, _ in factors)
        columns = cls._read(data, len(terms) + len(exponents), True)
        cls._check_design(columns)
        loss = columns[cls.target]
        weight = read_weights(weights, len(loss))
        logs = {name: columns[name].log() for name in cls.columns}
        centers = {name: values.mean() for name, values in logs.items()}
        target = loss if raw else loss.log()

        def build(held: Mapping[str, float]) -> tuple[Model, list[str]]:
            free = [s for s in (*(name for name, _ in terms), *exponents) if s not in held]
            designs, offsets = [], []
            for coefficient, factors in terms:
                design = torch.zeros(len(loss), len(free), dtype=torch.float64)
                offset = torch.zeros(len(loss), dtype=torch.float64)
                if coefficient in held:
                    offset += np.log(held[coefficient])
                else:
                    design[:, free.index(coefficient)] = 1.0
                for column, exponent, sign in factors:
                    shift = 0.0 if coefficient in held else centers[column]
                    values = sign * (logs[column] - shift)
                    if exponent in held:
                        offset += held[exponent] * values
                    else:
                        design[:, free.index(exponent)] += values
                designs.append(design)
                offsets.append(offset)
            sum_of_powers = PowerSum(designs, offsets)
            return (_Raw(sum_of_powers) if raw else sum_of_powers), free

        def read(theta: Tensor) -> dict[str, Tensor]:
            found = dict(zip((*(name for name, _ in terms), *exponents), theta.T, strict=True))
            return cls._symbols_from(found, terms, centers)

        coarse = cls._starts(terms, exponents, logs, centers, loss, weight, raw, starts)
        order = [*(name for name, _ in terms), *exponents]

        def hold(name: str, value: float) -> tuple[Model, Tensor]:
            held = cls._held(name, value)
            model, free = build(held)
            keep = [order.index(s) for s in free]
            return model, coarse[:, keep]

        return solve(
            cls,
            build({})[0],
            coarse,
            target,
            weight,
            read,
            {
                **dict.fromkeys((name for name, _ in terms), "log"),
                **dict.fromkeys(exponents, "share"),
            },
            huber_delta=huber_delta,
            logarithmic=not raw,
            bootstrap=bootstrap,
            generator=generator,
            groups=groups,
            hold=hold,
        )

    @classmethod
    def _held(cls, name: str, value: float) -> dict[str, float]:
        if not value > 0:
            raise ValueError(f"values: expected numbers > 0 for {name}, got {value:g}")
        return {name: value}

    @classmethod
    def _symbols_from(cls, found: dict[str, Tensor], terms: tuple, centers: Mapping) -> dict:
        """Coefficients in the table's own units, from those at the center of the logarithms."""
        params = {}
        for coefficient, factors in terms:
            shift = sum(sign * found[e] * centers[column] for column, e, sign in factors)
            params[coefficient] = (found[coefficient] - shift).exp()
        params |= {e: found[e] for _, factors in terms for _, e, _ in factors}
        return {
            s: params.get(s, torch.zeros_like(next(iter(params.values())))) for s in cls.symbols
        }

    @classmethod
    def _starts(
        cls, terms: tuple, exponents: list[str], logs: Mapping[str, Tensor],
        centers: Mapping[str, Tensor], loss: Tensor, weight: Tensor, raw: bool, count: int,
    ) -> Tensor:  # fmt: skip
        """Variable projection on relative (or raw) least squares over a grid of exponents."""
        shape = (_GRIDS[len(exponents)],) * len(exponents)
        axis = torch.logspace(-2, 0.5, shape[0], dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(*(axis,) * len(exponents), indexing="ij"), -1)
        grid = grid.flatten(0, -2)  # (G, exponents)
        scale = weight.sqrt() * (torch.ones_like(loss) if raw else 1 / loss)
        slopes = torch.zeros(len(terms), len(exponents), len(loss), dtype=torch.float64)
        for slope, (_, factors) in zip(slopes, terms, strict=True):
            for column, exponent, sign in factors:
                slope[exponents.index(exponent)] += sign * (logs[column] - centers[column])
        own = [  # the different exponents of each term, and which of them a grid point has
            (grid * torch.tensor([e in {f[1] for f in factors} for e in exponents])).unique(
                dim=0, return_inverse=True
            )
            for _, factors in terms
        ]

        def columns(rows: slice) -> list[Tensor]:
            return [
                (points @ slope[:, rows]).exp() * scale[rows]
                for (points, _), slope in zip(own, slopes, strict=True)
            ]

        index = torch.stack([at for _, at in own], -1)
        coefficients, residual = separable_least_squares(columns, index, scale * loss)
        at = best_distinct(residual, shape, count)
        least = 1e-3 * loss.min()
        return torch.cat([coefficients[at].clamp_min(least).log(), grid[at]], -1)

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return the law's value.

        Parameters
        ----------
        params : mapping of str to float
            All of `symbols`; a coefficient may be 0.
        data : pandas.DataFrame or mapping
            The law's columns, positive.
        **settings
            None.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted target.

        Raises
        ------
        ValueError
            If a parameter or a column is missing, or a value is not positive.
        """
        missing = [s for s in cls.symbols if s not in params]
        if missing:
            raise ValueError(f"params: expected {list(cls.symbols)}, got no {missing}")
        columns = cls._read(data, None, False)
        total: Any = 0.0
        for coefficient, factors in cls.terms:
            log = sum(
                (sign * params[e] * columns[c].log() for c, e, sign in factors),
                torch.zeros_like(columns[cls.columns[0]]),
            )
            total = total + params[coefficient] * log.exp()
        return total.numpy()


class _Raw:
    """The exponential of a model of a logarithm."""

    def __init__(self, inner: PowerSum) -> None:
        self.inner = inner

    def value(self, theta: Tensor) -> Tensor:
        return self.inner.value(theta).exp()

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        f, slope = self.inner.jacobian(theta)
        return f.exp(), f.exp()[..., None] * slope

    def curvature(self, theta: Tensor, weight: Tensor) -> Tensor:
        f, slope = self.inner.jacobian(theta)
        weight = weight * f.exp()
        return self.inner.curvature(theta, weight) + slope.mT @ (weight[..., None] * slope)


class ChinchillaLaw(_PowerSumLaw):
    """L(N, D) = E + A N^−α + B D^−β [1]_.

    Columns ``params`` N, ``tokens`` D and ``loss`` L, in any units.

    References
    ----------
    .. [1] J. Hoffmann et al., Training Compute-Optimal Large Language Models, equation 2.
    """

    columns = ("params", "tokens")
    symbols = ("E", "A", "B", "alpha", "beta")
    terms = (
        ("E", ()),
        ("A", (("params", "alpha", -1),)),
        ("B", (("tokens", "beta", -1),)),
    )


class AverageParametersLaw(_PowerSumLaw):
    """L = E + A N̄^−α + B D^−β with N̄ the mean number of active parameters over training.

    Columns ``average_params``, ``tokens`` and ``loss``. With pruning on the way the compute is
    6 N̄ D, and the law is Chinchilla's in N̄.
    """

    columns = ("average_params", "tokens")
    symbols = ("E", "A", "B", "alpha", "beta")
    terms = (
        ("E", ()),
        ("A", (("average_params", "alpha", -1),)),
        ("B", (("tokens", "beta", -1),)),
    )


class PowerLaw(_PowerSumLaw):
    """y = E + A x^−α, with or without the floor E.

    Columns ``x`` and ``loss``; ``floor=False`` in `fit` sets E to 0.
    """

    columns = ("x",)
    symbols = ("E", "A", "alpha")
    terms = (("E", ()), ("A", (("x", "alpha", -1),)))


class OverTrainingLaw(_PowerSumLaw):
    """L(C, M) = E + (a M^η + b M^−η) C^−η with M = D/N and C = 6 N D [1]_.

    Columns ``params`` N, ``tokens`` D and ``loss`` L. It is Chinchilla's law with α = β = 2η in
    the coordinates of compute and token multiplier.

    References
    ----------
    .. [1] S. Y. Gadre et al., Language models scale reliably with over-training and on downstream
       tasks, equation 4.
    """

    columns = ("flops", "multiplier")
    symbols = ("E", "a", "b", "eta")
    terms = (
        ("E", ()),
        ("a", (("flops", "eta", -1), ("multiplier", "eta", 1))),
        ("b", (("flops", "eta", -1), ("multiplier", "eta", -1))),
    )

    @classmethod
    def _read(cls, data: Any, rows: int | None, target: bool) -> dict[str, Tensor]:
        names = ["params", "tokens", *([cls.target] if target else [])]
        columns = read_columns(data, names, rows=rows, positive=names)
        size, tokens = columns.pop("params"), columns.pop("tokens")
        return {"flops": 6 * size * tokens, "multiplier": tokens / size, **columns}


def _unique(names: Any) -> list[str]:
    return list(dict.fromkeys(names))
