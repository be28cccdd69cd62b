"""A law of filtered data: pools of different quality, worth less with every repetition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enough.runtime.validation import check_integer, check_number
from enough.scaling._models import DifferentiableModel
from enough.scaling._table import read_columns, read_weights
from enough.scaling.fit import Fit, solve
from enough.scaling.laws import Law

__all__ = ["DataFilteringLaw"]

_MOST_EPOCHS = 10_000


class DataFilteringLaw(Law):
    r"""y = d + Π_j (n_j / n_{j−1})^(b 2^(−j/τ)): error after n samples of a pool, repeated [1]_.

    Epoch j = 0, 1, … ends after n_j = min((j + 1) U, n) samples of a pool of U, and n_{−1} = 1/a.
    During it the error above d falls with the local exponent b 2^(−j/τ): the utility b < 0 of the
    pool, halved every τ epochs. Columns ``pool`` (a name), ``samples`` n, ``unique_samples`` U and
    ``error`` y. All pools share a and d; parameters of a pool are called ``b[name]`` and
    ``tau[name]``.

    A pool given as a tuple of names is the union of that many pools of equal size: its utility in
    epoch j is the mean of theirs, with every half-life multiplied by their number. Unions are
    predicted from their members; they cannot be fitted.

    References
    ----------
    .. [1] S. Goyal et al., Scaling Laws for Data Filtering: Data Curation cannot be Compute
       Agnostic, arXiv 2404.07177.

    Notes
    -----
    Form and rule of unions were read in the code that the authors published, not in the paper. Two
    things differ. That code adds d to the first epoch's factor, so that d shrinks with repetition;
    here d stays. And it measures n in units of 100 000 samples: its a is 100 000 times ours. It
    searches a grid; here the optimum is found. With the constants that the authors published for
    four pools, both forms keep as many pools at each of the code's four budgets. No table of the
    authors' errors is public: the fit is checked on generated errors alone.
    """

    columns = ("pool", "samples", "unique_samples")
    target = "error"
    symbols = ("a", "d", "b", "tau")

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        floor: float | None = None,
        huber_delta: float = float("inf"),
        starts: int = 8,
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit all pools together by least squares of the logarithms, or by a Huber loss.

        At given a and d the pools part, and given τ each b follows in closed form: a grid over a
        and d, and over τ pool by pool, gives the starts of a Newton method on the exact objective.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            Columns pool (one name a row, no unions), samples, unique_samples and error; numbers
            positive.
        floor : float, optional
            The error d that no amount of data removes, held at this value; 0 for none. Default:
            fitted.
        huber_delta : float, default inf
            Width of the quadratic zone; ``inf`` gives least squares.
        starts : int, default 8
            Points of the grid to start from.
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
            If a column is missing or out of range, a pool is a union, there are fewer rows than
            parameters, no pool repeats its samples (then no half-life is determined), or the error
            of a pool does not fall with the samples.
        """
        numbers = (*cls.columns[1:], cls.target)
        table = read_columns(data, numbers, positive=numbers)
        pools, error = _pools(data, len(table["samples"])), table["error"]
        if any(len(pool) > 1 for pool in pools):
            raise ValueError("pool: expected single pools to fit, got a union")
        names = list(dict.fromkeys(pool[0] for pool in pools))
        held = floor if floor is None else check_number(floor, "floor", minimum=0.0)
        if held is not None and not held < error.min():
            raise ValueError(f"floor: expected less than every error, got {held:g}")
        size = 2 * len(names) + 1 + (held is None)
        if len(error) < size:
            raise ValueError(f"data: expected at least {size} rows, got {len(error)}")
        member = torch.tensor([names.index(pool[0]) for pool in pools])
        first, later, decay = _epochs(table)
        for i, name in enumerate(names):
            rows = member == i
            if not later[rows].any():
                raise ValueError(f"samples: expected runs that repeat the pool {name!r}, got none")
            if not torch.cov(torch.stack([table["samples"][rows], error[rows]]).log())[0, 1] < 0:
                raise ValueError(f"error: expected errors that fall with samples of {name!r}")
        center = first.mean()
        x = first - center
        weight, y = read_weights(weights, len(error)), error.log()
        count = check_integer(starts, "starts", minimum=1)
        theta = _filtering_starts(x, later, decay, member, error, weight, held, count)

        def parts(theta: Tensor) -> tuple[Tensor, ...]:
            """Logarithm of a n at the center, d, and b and ln τ of the pools."""
            free = theta[1:] if held is not None else theta[2:]
            d = error.new_tensor(held) if held is not None else theta[1].exp()
            return theta[0], d, -free[: len(names)].exp(), free[len(names) :]

        def function(theta: Tensor) -> Tensor:
            level, d, b, log_tau = parts(theta)
            worth = (later * torch.exp2(-decay / log_tau.exp()[member][:, None])).sum(-1)
            return (d + (b[member] * (level + x + worth)).exp()).log()

        def read(theta: Tensor) -> dict[str, Tensor]:
            level, d, b, log_tau = torch.func.vmap(parts)(theta)
            params = {"a": (level - center).exp(), "d": d}
            params |= {f"b[{name}]": b[:, i] for i, name in enumerate(names)}
            return params | {f"tau[{name}]": log_tau[:, i].exp() for i, name in enumerate(names)}

        order = ["a", *["d"] * (held is None), *(f"b[{n}]" for n in names)]
        kinds = dict.fromkeys([*order, *(f"tau[{n}]" for n in names)], "log")
        return solve(
            cls, DifferentiableModel(function), theta, y, weight, read, kinds,
            huber_delta=huber_delta, logarithmic=True, bootstrap=bootstrap, generator=generator,
            groups=groups,
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return the error after the given samples.

        Parameters
        ----------
        params : mapping of str to float
            a, d, and ``b[name]`` and ``tau[name]`` of every pool that occurs; τ may be ``inf``.
        data : pandas.DataFrame or mapping
            Columns pool (a name, or a tuple of names for a union of pools of equal size), samples
            and unique_samples (of the union).
        **settings
            None.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted errors.

        Raises
        ------
        ValueError
            If a column is missing, or ``params`` lacks a pool.
        """
        table = read_columns(data, cls.columns[1:], positive=cls.columns[1:])
        pools = _pools(data, len(table["samples"]))
        first, later, decay = (part.numpy() for part in _epochs(table))
        result = np.empty(len(pools))
        for row, pool in enumerate(pools):
            missing = [name for name in pool if f"b[{name}]" not in params]
            if missing:
                raise ValueError(f"pool: expected one of the fitted pools, got {missing[0]!r}")
            b = np.array([params[f"b[{name}]"] for name in pool])
            tau = np.array([params[f"tau[{name}]"] for name in pool]) * len(pool)
            utility = b[:, None] * 2.0 ** (-decay[row] / tau[:, None])
            steps = b.mean() * (np.log(params["a"]) + first[row]) + utility.mean(0) @ later[row]
            result[row] = params["d"] + np.exp(steps)
        return result


def _pools(data: Any, rows: int) -> list[tuple[str, ...]]:
    """Names of each row's pools."""
    try:
        given = list(data["pool"])
    except (KeyError, TypeError) as error:
        raise ValueError("data: expected a column 'pool'") from error
    if len(given) != rows:
        raise ValueError(f"pool: expected one entry a row, {rows}, got {len(given)}")
    pools = [tuple(pool) if isinstance(pool, tuple | list) else (pool,) for pool in given]
    for pool in pools:
        if not pool or len(set(pool)) < len(pool):
            raise ValueError(f"pool: expected a name, or several different ones, got {pool!r}")
    return pools


def _epochs(table: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """ln of the samples of the first epoch, growths of ln n in later ones, and epoch numbers."""
    samples, unique = table["samples"], table["unique_samples"]
    most = int((samples / unique).max().ceil())
    if most > _MOST_EPOCHS:
        raise ValueError(f"samples: expected at most {_MOST_EPOCHS} epochs, got {most}")
    ends = torch.arange(1, max(most, 2) + 1, dtype=torch.float64) * unique[:, None]
    ends = torch.minimum(ends, samples[:, None]).log()
    decay = torch.arange(1, ends.shape[1], dtype=torch.float64).expand(len(samples), -1)
    return ends[:, 0], ends.diff(dim=1), decay


def _filtering_starts(
    x: Tensor,
    later: Tensor,
    decay: Tensor,
    member: Tensor,
    error: Tensor,
    weight: Tensor,
    held: float | None,
    count: int,
) -> Tensor:
    """Return the best points of a grid over a and d, with τ and b the best of every pool."""
    taus = torch.logspace(-1, 3, 33, dtype=torch.float64)
    growth = x[:, None] + (later[:, None] * torch.exp2(-decay[:, None] / taus[:, None])).sum(-1)
    shares = torch.tensor([1e-4, 0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99], dtype=torch.float64)
    floors = shares * error.min() if held is None else torch.tensor([held], dtype=torch.float64)
    # ln y is linear in b only above the floor: a relative error there weighs (y - d) / y.
    found = []
    for d in floors:
        root = weight.sqrt() * (error - d) / error
        goal = (error - d).log()
        for level in torch.linspace(-8.0, 40.0, 193, dtype=torch.float64):
            score, theta = torch.zeros(()), [level[None]]
            if held is None:
                theta.append(d.log()[None])
            slopes, lives = [], []
            for pool in range(int(member.max()) + 1):
                rows = member == pool
                z = (level + growth[rows]) * root[rows, None]
                target = (goal * root)[rows, None]
                b = (z * target).sum(0) / z.square().sum(0)
                residual = (b * z - target).square().sum(0)
                residual = torch.where(b < 0, residual, torch.inf)
                best = residual.argmin()
                score = score + residual[best]
                slopes.append(b[best].neg().clamp_min(1e-12).log())
                lives.append(taus[best].log())
            found.append((score.item(), torch.cat([*theta, torch.stack(slopes + lives)])))
    found.sort(key=lambda pair: pair[0])
    # One start a floor first: neighbors along the level fall into the same valley.
    chosen: list[Tensor] = []
    for _, theta in found:
        if all((theta[:2] - other[:2]).abs().max() > 0.5 for other in chosen):
            chosen.append(theta)
        if len(chosen) == count:
            break
    return torch.stack(chosen)
