"""What a fitted scaling law says, and how sure it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from enough.runtime import as_generator
from enough.runtime.validation import check_integer, check_number
from enough.scaling._models import Model
from enough.scaling._solver import minimize

if TYPE_CHECKING:
    from enough.scaling.laws import Law

__all__ = ["Fit", "IdentifiabilityWarning"]

#: A logarithm of a coefficient, or an exponent's share, that is known no better than this is not
#: identified: a factor e^1.5 ≈ 4.5 either way, or an exponent whose interval reaches zero.
LOOSE = {"log": 1.5, "share": 0.75}


#: Derivatives in one batch: starts (or replicas) × rows × coordinates, 16 MB in float64.
_ENTRIES = 2_000_000


class IdentifiabilityWarning(UserWarning):
    """The data do not determine a parameter of the law."""


@dataclass(frozen=True)
class Fit:
    """A scaling law with fitted parameters.

    Attributes
    ----------
    law : type
        The class of the law.
    params : dict of str to float
        Parameters by the paper's symbols.
    objective : float
        Sum over rows of the weighted loss of the residuals at the optimum.
    loss : numpy.ndarray, shape (n,)
        Predicted values of the fitted rows, in their order.
    covariance : numpy.ndarray, shape (p, p)
        Covariance of `params`, in their order: the sandwich estimate of an M-estimator, carried
        from the solver's coordinates by the delta method.
    stderr : dict of str to float
        Square roots of its diagonal.
    bootstrap : dict of str to numpy.ndarray
        Replicas of each parameter; empty without a bootstrap.
    condition_number : float
        Condition number of JᵀJ at the optimum, J the derivatives of the predictions by the
        solver's coordinates (logarithms of coefficients at the center of the data, exponents).
    agreement : float
        Share of the starts that end within one part in a million of the lowest objective.
    not_identified : tuple of str
        Parameters that the data do not determine: by the covariance, of which a warning tells, or,
        with a bootstrap, by the spread of the middle four fifths of its replicas.
    huber_delta : float
        Width of the quadratic zone; ``inf`` for least squares.
    """

    law: type[Law]
    params: dict[str, float]
    objective: float
    loss: np.ndarray
    covariance: np.ndarray
    stderr: dict[str, float]
    bootstrap: dict[str, np.ndarray]
    condition_number: float
    agreement: float
    not_identified: tuple[str, ...]
    huber_delta: float
    _settings: Mapping[str, Any] = field(repr=False, default_factory=dict)
    _profile: Callable[[str, np.ndarray], np.ndarray] | None = field(repr=False, default=None)

    def predict(self, data: Any) -> np.ndarray:
        """Return the law's prediction.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            The law's columns, without the one that was fitted.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted values.

        Raises
        ------
        ValueError
            If a column is missing or has a value out of range.
        """
        return self.law.evaluate(self.params, data, **self._settings)

    def interval(self, data: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return an interval around the mean prediction.

        Percentiles of the bootstrap where there is one, else the delta method on the logarithm of
        the prediction with the fit's covariance. It does not include the scatter of a new run.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            The law's columns.
        level : float, default 0.95
            Coverage, in (0, 1).

        Returns
        -------
        low, high : numpy.ndarray, shape (n,)
            Ends of the interval.

        Raises
        ------
        ValueError
            If a column is missing or ``level`` is out of range.
        """
        level = check_number(level, "level", above=0, below=1)
        if self.bootstrap:
            replicas = [
                self.law.evaluate(
                    dict(zip(self.bootstrap, row, strict=True)), data, **self._settings
                )
                for row in zip(*self.bootstrap.values(), strict=True)
            ]
            tail = (1 - level) / 2
            low, high = np.quantile(replicas, [tail, 1 - tail], axis=0)
            return low, high
        center = self.predict(data)
        gradient = np.stack([self._log_slope(name, data) for name in self.params], -1)
        half = stats.norm.ppf((1 + level) / 2) * np.sqrt(
            np.einsum("np,pq,nq->n", gradient, self.covariance, gradient)
        )
        return center * np.exp(-half), center * np.exp(half)

    def profile(self, name: str, values: Any) -> np.ndarray:
        """Return the lowest objective with one parameter held at each of some values.

        Parameters
        ----------
        name : str
            A parameter.
        values : array_like, shape (m,)
            Where to hold it.

        Returns
        -------
        numpy.ndarray, shape (m,)
            The objective, minimized over the other parameters.

        Raises
        ------
        ValueError
            If the parameter is unknown or a value is out of its range.
        """
        if name not in self.params:
            raise ValueError(f"name: expected one of {list(self.params)}, got {name!r}")
        if self._profile is None:
            raise ValueError(f"{self.law.__name__}: a profile is not available for this law")
        return self._profile(name, np.atleast_1d(np.asarray(values, dtype=np.float64)))

    def _log_slope(self, name: str, data: Any) -> np.ndarray:
        """Central difference of the logarithm of the prediction by one parameter."""
        value = self.params[name]
        step = 1e-5 * max(abs(value), 1e-8)
        ends = [
            self.law.evaluate({**self.params, name: value + sign * step}, data, **self._settings)
            for sign in (-1, 1)
        ]
        return (np.log(ends[1]) - np.log(ends[0])) / (2 * step)


def solve(
    law: type[Law],
    model: Model,
    starts: Tensor,
    target: Tensor,
    weight: Tensor,
    read: Callable[[Tensor], dict[str, Tensor]],
    kinds: Mapping[str, str],
    *,
    huber_delta: float,
    logarithmic: bool,
    bootstrap: int,
    generator: Any,
    groups: Any = None,
    settings: Mapping[str, Any] | None = None,
    hold: Callable[[str, float], tuple[Model, Tensor]] | None = None,
) -> Fit:
    """Minimize the objective of a law and report everything about the optimum.

    Parameters
    ----------
    law : type
        The class of the law.
    model : Model
        Predictions, or their logarithms, as a function of the solver's coordinates.
    starts : torch.Tensor, shape (S, p)
        Starting points.
    target : torch.Tensor, shape (n,)
        What to predict.
    weight : torch.Tensor, shape (n,)
        Weights of the rows.
    read : callable
        Maps coordinates (R, p) to parameters by name, each of shape (R,).
    kinds : mapping of str to str
        ``"log"`` for coordinates that are logarithms, ``"share"`` for exponents; one a coordinate,
        in order, keyed by the parameter that a loose coordinate is reported as.
    huber_delta : float
        Width of the quadratic zone; ``inf`` gives least squares.
    logarithmic : bool
        Whether the model predicts logarithms.
    bootstrap : int
        Number of replicas.
    generator : torch.Generator, int or None
        Source of the resamples.
    groups : array_like, optional
        Rows with equal entries are resampled together.
    settings : mapping, optional
        Keyword arguments of the law's ``evaluate``.
    hold : callable, optional
        Maps a parameter's name and a value to a model with it held, and a start.

    Returns
    -------
    Fit
        The fitted law.
    """
    replicas = check_integer(bootstrap, "bootstrap", minimum=0)
    huber_delta = check_number(huber_delta, "huber_delta", above=0, finite=False)
    size = max(1, _ENTRIES // (len(target) * starts.shape[1]))  # starts, or replicas, at once
    theta, objective, converged = (
        torch.cat(parts)
        for parts in zip(
            *(
                minimize(model, some, target, weight, huber_delta, steps=100)
                for some in starts.split(size)
            ),
            strict=True,
        )
    )
    # A start that is still far behind after so many Newton steps creeps along a flat direction.
    late = ~converged & (objective <= 2 * objective.min())
    for some in late.nonzero()[:, 0].split(size) if late.any() else ():
        theta[some], objective[some], _ = minimize(model, theta[some], target, weight, huber_delta)
    if not objective.isfinite().any():
        raise ValueError(f"data: {law.__name__} has no finite prediction on these rows")
    order = objective.argsort()
    winner, lowest = theta[order[0]], objective[order[0]]
    agreement = (objective <= lowest * (1 + 1e-6) + 1e-28).double().mean().item()

    f, jacobian = (part[0] for part in model.jacobian(winner[None]))
    curvature = jacobian.mT @ (weight[:, None] * jacobian)
    eigenvalues = torch.linalg.eigvalsh(curvature)
    condition = (eigenvalues[-1] / eigenvalues[0].clamp_min(0)).item()
    coordinates = _sandwich(model, winner, target, weight, huber_delta)
    spread = coordinates.diagonal().clamp_min(0).sqrt()
    loose = _loose(kinds, spread, winner)
    if condition > 1e14:
        loose = loose or tuple(kinds)
    if loose:
        warnings.warn(
            f"{law.__name__}: the data do not identify {', '.join(loose)} "
            f"(condition number {condition:.1e}); more distinct scales would",
            IdentifiabilityWarning,
            stacklevel=4,
        )

    params = {name: value.item() for name, value in read(winner[None]).items()}
    transform = torch.func.jacfwd(lambda t: torch.stack([v[0] for v in read(t[None]).values()]))(
        winner
    )
    covariance = (transform @ coordinates @ transform.mT).numpy()
    stderr = dict(zip(params, np.sqrt(np.clip(np.diag(covariance), 0, None)).tolist(), strict=True))
    samples: dict[str, np.ndarray] = {}
    if replicas:
        counts = _resampled(len(target), replicas, as_generator(generator), groups, size)
        ends = torch.cat(
            [
                minimize(model, winner.expand(len(part), -1), target, weight * part, huber_delta)[0]
                for part in counts
            ]
        )
        samples = {name: values.numpy() for name, values in read(ends).items()}
        # The curvature at the optimum cannot see a valley that runs off to infinity: resamples do.
        middle = ends.quantile(torch.tensor([0.1, 0.9], dtype=ends.dtype), dim=0).diff(dim=0)[0]
        wide = _loose(kinds, middle / (2 * stats.norm.ppf(0.9)), winner)
        loose = tuple(name for name in kinds if name in {*loose, *wide})

    def profile(name: str, values: np.ndarray) -> np.ndarray:
        lowest = []
        for value in values:
            held, start = hold(name, float(value))
            lowest.append(minimize(held, start, target, weight, huber_delta)[1].min().item())
        return np.array(lowest)

    return Fit(
        law=law,
        params=params,
        objective=lowest.item(),
        loss=(f.exp() if logarithmic else f).numpy(),
        covariance=covariance,
        stderr=stderr,
        bootstrap=samples,
        condition_number=condition,
        agreement=agreement,
        not_identified=loose,
        huber_delta=huber_delta,
        _settings=settings or {},
        _profile=profile if hold is not None else None,
    )


def _loose(kinds: Mapping[str, str], spread: Tensor, winner: Tensor) -> tuple[str, ...]:
    return tuple(
        name
        for (name, kind), one, value in zip(kinds.items(), spread, winner, strict=True)
        if not one < LOOSE[kind] * (1.0 if kind == "log" else abs(value.item()))
    )


def _sandwich(model: Model, theta: Tensor, target: Tensor, weight: Tensor, delta: float) -> Tensor:
    """Covariance of an M-estimator, H⁻¹ (Σ w² ψ² g gᵀ) H⁻¹, rows independent but not alike.

    H is the expected Hessian of the objective, for which the share of residuals inside the zone is
    needed. A narrow zone holds too few of them; as for quantile regression (Powell 1991) the share
    is taken from a window as wide as a kernel density estimate needs, and scaled to the zone.
    """
    f, jacobian = (part[0] for part in model.jacobian(theta[None]))
    residual = f - target
    rows, size = jacobian.shape
    score = weight * residual.clamp(-delta, delta)
    meat = jacobian.mT @ (score.square()[:, None] * jacobian) * rows / max(rows - size, 1)
    robust = 1.4826 * residual.abs().median().item()
    window = max(delta, 1.06 * robust * rows**-0.2)
    share = 1.0 if window == delta else delta / window
    inside = weight * (residual.abs() <= window) * share
    hessian = jacobian.mT @ (inside[:, None] * jacobian)
    bread = torch.linalg.pinv(hessian, hermitian=True, rtol=1e-15)
    return bread @ meat @ bread


def _resampled(
    rows: int, replicas: int, generator: torch.Generator, groups: Any, size: int
) -> Iterator[Tensor]:
    """Counts of each row in resamples of rows, or of whole groups: (at most size, rows) a time."""
    if groups is None:
        labels, count = torch.arange(rows), rows
    else:
        names, inverse = np.unique(np.asarray(groups), return_inverse=True)
        if inverse.shape != (rows,):
            raise ValueError(f"groups: expected one label a row, {rows}, got {inverse.shape}")
        labels, count = torch.from_numpy(inverse), len(names)
    for start in range(0, replicas, size):
        some = min(size, replicas - start)
        draws = torch.randint(count, (some, count), generator=generator)
        counts = torch.zeros(some, count, dtype=torch.float64)
        counts.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
        yield counts[:, labels]
