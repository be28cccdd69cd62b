"""Laws that are not sums of power laws: joint, downstream, repeated data, translation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enough.runtime import chunks
from enough.runtime.validation import check_integer, check_number
from enough.scaling._models import DifferentiableModel, Model
from enough.scaling._starts import best_distinct, nonnegative_least_squares
from enough.scaling._table import distinct, read_columns, read_weights
from enough.scaling.fit import Fit, solve
from enough.scaling.laws import ChinchillaLaw, Law

__all__ = ["DataConstrainedLaw", "DownstreamLaw", "KaplanLaw", "TranslationLaw"]

_MEMORY = 64 * 2**20  # bytes of working arrays at a time


class KaplanLaw(Law):
    """L(N, D) = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D [1]_.

    Columns ``params`` N, ``tokens`` D and ``loss`` L.

    References
    ----------
    .. [1] J. Kaplan et al., Scaling Laws for Neural Language Models, equation 1.5.
    """

    columns = ("params", "tokens")
    symbols = ("N_c", "D_c", "alpha_N", "alpha_D")

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        huber_delta: float = 1e-3,
        starts: int = 8,
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit the law by a Huber loss of the logarithms.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            Columns params, tokens and loss, positive.
        huber_delta : float, default 1e-3
            Width of the quadratic zone; ``inf`` gives least squares.
        starts : int, default 8
            Points of the grid over the exponents to start from.
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
        columns = read_columns(data, names, rows=4, positive=names)
        for name in names:
            if distinct(columns[name]) < 2:
                raise ValueError(
                    f"{name}: expected values that differ, got "
                    f"{columns[name][0].item():g} in every row"
                )
        log_n, log_d = columns["params"].log(), columns["tokens"].log()
        center_n, center_d = log_n.mean(), log_d.mean()
        x, z, y = log_n - center_n, log_d - center_d, columns["loss"].log()
        weight = read_weights(weights, len(y))

        def function(theta: Tensor) -> Tensor:
            a, d, ratio, log_alpha = theta
            return log_alpha.exp() * torch.logaddexp(a - ratio.exp() * x, d - z)

        # At given exponents L^(1/α_D) is linear in N_c^(α_N/α_D) and D_c.
        axis = torch.logspace(-2, 0, 41, dtype=torch.float64)
        ratio, alpha = (part.flatten() for part in torch.meshgrid(axis * 5, axis, indexing="ij"))
        found = []
        for some in chunks(len(alpha), 80 * len(y), _MEMORY):
            one, other = ratio[some], alpha[some]
            power = y / other[:, None]
            columns_of = torch.stack([(-one[:, None] * x - power).exp(), (-z - power).exp()], -1)
            scale = (other[:, None] * weight.sqrt())[..., None]
            coefficients, _ = nonnegative_least_squares(
                columns_of * scale / other[:, None, None], weight.sqrt()
            )
            safe = coefficients.clamp_min(
                1e-6 * coefficients.amax(-1, keepdim=True).clamp_min(1e-12)
            )
            theta = torch.cat([safe.log(), one.log()[:, None], other.log()[:, None]], -1)
            residual = torch.func.vmap(function)(theta) - y
            found.append((theta, (weight * residual.square()).sum(-1)))
        theta, score = (torch.cat(parts) for parts in zip(*found, strict=True))
        score = score.nan_to_num(torch.inf, torch.inf)
        at = best_distinct(score, (41, 41), check_integer(starts, "starts", minimum=1))

        def read(theta: Tensor) -> dict[str, Tensor]:
            a, d, ratio, log_alpha = theta.T
            ratio, alpha_d = ratio.exp(), log_alpha.exp()
            return {
                "N_c": (a / ratio + center_n).exp(),
                "D_c": (d + center_d).exp(),
                "alpha_N": ratio * alpha_d,
                "alpha_D": alpha_d,
            }

        kinds = {"N_c": "log", "D_c": "log", "alpha_N": "log", "alpha_D": "log"}
        return solve(
            cls, DifferentiableModel(function), theta[at], y, weight, read, kinds,
            huber_delta=huber_delta, logarithmic=True, bootstrap=bootstrap, generator=generator,
            groups=groups,
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return L(N, D).

        Parameters
        ----------
        params : mapping of str to float
            N_c, D_c, alpha_N, alpha_D.
        data : pandas.DataFrame or mapping
            Columns params and tokens.
        **settings
            None.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted losses.
        """
        columns = read_columns(data, cls.columns, positive=cls.columns)
        size = (params["N_c"] / columns["params"]) ** (params["alpha_N"] / params["alpha_D"])
        return ((size + params["D_c"] / columns["tokens"]) ** params["alpha_D"]).numpy()


class DownstreamLaw(Law):
    """Err(L) = ε − k exp(−γ L): downstream error as a function of the loss [1]_.

    Columns ``loss`` L and ``error``.

    References
    ----------
    .. [1] S. Y. Gadre et al., Language models scale reliably with over-training and on downstream
       tasks, equation 5.
    """

    columns = ("loss",)
    target = "error"
    symbols = ("epsilon", "k", "gamma")

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        huber_delta: float = float("inf"),
        starts: int = 8,
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit the law by least squares, or by a Huber loss of the errors.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            Columns loss and error.
        huber_delta : float, default inf
            Width of the quadratic zone; ``inf`` gives least squares, as in the paper.
        starts : int, default 8
            Points of the grid over γ to start from.
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
            If a column is missing, constant, too short or not finite.
        """
        columns = read_columns(data, (*cls.columns, cls.target), rows=3, positive=cls.columns)
        loss, error = columns["loss"], columns["error"]
        if distinct(loss) < 2 or torch.equal(error, error[:1].expand_as(error)):
            raise ValueError("loss, error: expected columns that differ, got a constant one")
        weight, center = read_weights(weights, len(loss)), loss.mean()
        x = loss - center

        def function(theta: Tensor) -> Tensor:
            ceiling, log_k, log_gamma = theta
            return ceiling - (log_k - log_gamma.exp() * x).exp()

        gamma = torch.logspace(-2, 1.5, 401, dtype=torch.float64)
        root = weight.sqrt()
        falling = torch.stack([root.expand(401, -1), -(-gamma[:, None] * x).exp() * root], -1)
        solution = torch.linalg.lstsq(falling, (root * error).expand(401, -1)[..., None]).solution
        residual = ((falling @ solution)[..., 0] - root * error).square().sum(-1)
        slope = solution[:, 1, 0]
        score = torch.where(slope > 0, residual, torch.inf)
        if not score.isfinite().any():
            raise ValueError("error: expected an error that grows with the loss, got the opposite")
        at = best_distinct(score, (401,), check_integer(starts, "starts", minimum=1))
        at = at[score[at].isfinite()]
        theta = torch.stack([solution[at, 0, 0], slope[at].log(), gamma[at].log()], -1)

        def read(theta: Tensor) -> dict[str, Tensor]:
            ceiling, log_k, log_gamma = theta.T
            return {
                "epsilon": ceiling,
                "k": (log_k + log_gamma.exp() * center).exp(),
                "gamma": log_gamma.exp(),
            }

        kinds = {"epsilon": "share", "k": "log", "gamma": "log"}
        return solve(
            cls, DifferentiableModel(function), theta, error, weight, read, kinds,
            huber_delta=huber_delta, logarithmic=False, bootstrap=bootstrap, generator=generator,
            groups=groups,
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return the predicted error.

        Parameters
        ----------
        params : mapping of str to float
            epsilon, k, gamma.
        data : pandas.DataFrame or mapping
            Column loss.
        **settings
            None.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted errors.
        """
        loss = read_columns(data, cls.columns)["loss"]
        return (params["epsilon"] - params["k"] * (-params["gamma"] * loss).exp()).numpy()


class DataConstrainedLaw(Law):
    """Chinchilla's law in effective data and parameters when tokens repeat [1]_.

    L = E + A N'^−α + B D'^−β with D' = U (1 + R*_D (1 − e^(−R_D/R*_D))), R_D = D/U − 1, and
    N' = U_N (1 + R*_N (1 − e^(−R_N/R*_N))), R_N = N/U_N − 1, U_N = min(N, N_opt(U)), where N_opt
    is the compute-optimal size for U tokens under the base law. Columns ``params`` N, ``tokens`` D,
    ``unique_tokens`` U and ``loss`` L. The base law is fitted first, on runs without repetition,
    and held.

    References
    ----------
    .. [1] N. Muennighoff et al., Scaling Data-Constrained Language Models, equations 4 to 6.

    Notes
    -----
    The two constants are barely identified where few runs repeat often: look at ``profile`` and at
    a bootstrap before you quote one. On the 182 runs behind the published R*_D = 15.39 the
    objective changes by less than a hundredth from R*_D = 10 to infinity, and the middle four
    fifths of a bootstrap reach from 11 to no decay at all.
    """

    columns = ("params", "tokens", "unique_tokens")
    symbols = ("R_D", "R_N")

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        base: Fit | Mapping[str, float],
        huber_delta: float = 1e-3,
        starts: int = 8,
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit R*_D and R*_N by a Huber loss of the logarithms, the base law held.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            Columns params, tokens, unique_tokens and loss, positive, tokens ≥ unique_tokens.
        base : Fit or mapping
            A fitted `ChinchillaLaw`, or its parameters E, A, B, alpha, beta.
        huber_delta : float, default 1e-3
            Width of the quadratic zone; ``inf`` gives least squares.
        starts : int, default 8
            Points of the grid over the two constants to start from.
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
            If a column is missing, too short, not finite or not positive, if a run saw fewer
            tokens than are unique, if no run repeats a token, or if the base lacks a parameter.
        """
        names = (*cls.columns, cls.target)
        columns = read_columns(data, names, rows=3, positive=names)
        base_params = _base(base)
        if not (columns["tokens"] > 1.001 * columns["unique_tokens"]).any():
            raise ValueError(
                "tokens: expected runs that repeat tokens, got none above unique_tokens"
            )
        parts = _parts(columns, base_params)
        weight, y = read_weights(weights, len(columns["loss"])), columns["loss"].log()

        def function(theta: Tensor) -> Tensor:
            return _repeated(parts, base_params, theta[0].exp(), theta[1].exp()).log()

        axis = torch.logspace(-1.5, 4, 34, dtype=torch.float64).log()
        theta = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
        scores = []
        for some in chunks(len(theta), 80 * len(y), _MEMORY):
            residual = torch.func.vmap(function)(theta[some]) - y
            clipped = residual.abs().clamp_max(huber_delta)
            scores.append((weight * (clipped * residual.abs() - clipped.square() / 2)).sum(-1))
        score = torch.cat(scores)
        at = best_distinct(score, (34, 34), check_integer(starts, "starts", minimum=1))

        def hold(name: str, value: float) -> tuple[Model, Tensor]:
            if not value > 0:
                raise ValueError(f"values: expected numbers > 0 for {name}, got {value:g}")
            fixed = torch.tensor(value, dtype=torch.float64)

            def profile(theta: Tensor) -> Tensor:
                limits = (fixed, theta[0].exp()) if name == "R_D" else (theta[0].exp(), fixed)
                return _repeated(parts, base_params, *limits).log()

            return DifferentiableModel(profile), axis[:, None]

        return solve(
            cls, DifferentiableModel(function), theta[at], y, weight,
            lambda t: {"R_D": t[:, 0].exp(), "R_N": t[:, 1].exp()},
            {"R_D": "log", "R_N": "log"},
            huber_delta=huber_delta, logarithmic=True, bootstrap=bootstrap, generator=generator,
            groups=groups, settings={"base": base_params}, hold=hold,
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return the predicted loss.

        Parameters
        ----------
        params : mapping of str to float
            R_D and R_N; ``inf`` means that repeated tokens are as good as new ones.
        data : pandas.DataFrame or mapping
            Columns params, tokens and unique_tokens.
        **settings
            base : the base law's parameters or fit.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted losses.

        Raises
        ------
        ValueError
            If a run saw fewer tokens than are unique, or the base lacks a parameter.
        """
        columns = read_columns(data, cls.columns, positive=cls.columns)
        base = _base(settings.get("base"))
        limits = [torch.tensor(float(params[s]), dtype=torch.float64) for s in cls.symbols]
        return _repeated(_parts(columns, base), base, *limits).numpy()


class TranslationLaw(Law):
    """L(D) = a (1/D + C)^p, data scaling that levels off at a C^p [1]_.

    Columns ``tokens`` D (or any count of examples) and ``loss`` L.

    References
    ----------
    .. [1] Y. Bansal et al., Data Scaling Laws in NMT: The Effect of Noise and Architecture.
    """

    columns = ("tokens",)
    symbols = ("a", "C", "p")

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        huber_delta: float = 1e-3,
        starts: int = 8,
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit the law by a Huber loss of the logarithms.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            Columns tokens and loss, positive.
        huber_delta : float, default 1e-3
            Width of the quadratic zone; ``inf`` gives least squares.
        starts : int, default 8
            Points of the grid over C to start from.
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
        columns = read_columns(data, names, rows=3, positive=names)
        for name in names:
            if distinct(columns[name]) < 2:
                raise ValueError(f"{name}: expected values that differ, got a constant column")
        log_d, y = columns["tokens"].log(), columns["loss"].log()
        center, weight = log_d.mean(), read_weights(weights, len(y))
        x = log_d - center

        def function(theta: Tensor) -> Tensor:
            log_a, log_c, p = theta
            return log_a + p * torch.logaddexp(-x, log_c.expand_as(x))

        axis = torch.linspace(-12, 12, 241, dtype=torch.float64)
        design = torch.logaddexp(-x.expand(241, -1), axis[:, None])
        root = weight.sqrt()
        columns_of = torch.stack([torch.ones_like(design), design], -1) * root[:, None]
        line = torch.linalg.lstsq(columns_of, (root * y).expand(241, -1)[..., None]).solution
        theta = torch.stack([line[:, 0, 0], axis, line[:, 1, 0]], -1)
        score = (weight * (torch.func.vmap(function)(theta) - y).square()).sum(-1)
        score = torch.where(theta[:, 2] > 0, score, torch.inf)
        at = best_distinct(score, (241,), check_integer(starts, "starts", minimum=1))

        def read(theta: Tensor) -> dict[str, Tensor]:
            log_a, log_c, p = theta.T
            # In the table's units: a (1/D + C)^p with 1/D = exp(−x − center).
            return {"a": (log_a + p * center).exp(), "C": (log_c - center).exp(), "p": p}

        return solve(
            cls, DifferentiableModel(function), theta[at], y, weight, read,
            {"a": "log", "C": "log", "p": "share"},
            huber_delta=huber_delta, logarithmic=True, bootstrap=bootstrap, generator=generator,
            groups=groups,
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return L(D).

        Parameters
        ----------
        params : mapping of str to float
            a, C, p.
        data : pandas.DataFrame or mapping
            Column tokens.
        **settings
            None.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted losses.
        """
        tokens = read_columns(data, cls.columns, positive=cls.columns)["tokens"]
        return (params["a"] * (1 / tokens + params["C"]) ** params["p"]).numpy()


def _base(base: Any) -> dict[str, float]:
    given = base.params if isinstance(base, Fit) else base
    if not isinstance(given, Mapping) or any(s not in given for s in ChinchillaLaw.symbols):
        raise ValueError(
            f"base: expected a fit or parameters {list(ChinchillaLaw.symbols)}, got {given}"
        )
    return {s: check_number(given[s], f"base[{s!r}]", above=0) for s in ChinchillaLaw.symbols}


def _parts(columns: Mapping[str, Tensor], base: Mapping[str, float]) -> tuple[Tensor, ...]:
    """U, R_D, U_N and R_N of each run."""
    unique = columns["unique_tokens"]
    repeats = columns["tokens"] / unique - 1
    if (repeats < -1e-6).any():
        raise ValueError("tokens: expected at least unique_tokens in every run, got fewer")
    ratio = base["alpha"] * base["A"] / (base["beta"] * base["B"])
    optimal = (ratio * unique ** base["beta"]) ** (1 / base["alpha"])
    size = torch.minimum(columns["params"], optimal)
    return unique, repeats.clamp_min(0), size, columns["params"] / size - 1


def _repeated(
    parts: tuple[Tensor, ...], base: Mapping[str, float], limit_d: Tensor, limit_n: Tensor
) -> Tensor:
    unique, repeats, size, excess = parts

    def effective(count: Tensor, limit: Tensor) -> Tensor:
        return torch.where(limit.isinf(), count, -limit * torch.expm1(-count / limit))

    tokens = unique * (1 + effective(repeats, limit_d))
    params = size * (1 + effective(excess, limit_n))
    return base["E"] + base["A"] * params ** -base["alpha"] + base["B"] * tokens ** -base["beta"]
