"""Laws of the loss along a learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor

from enough.runtime.validation import check_integer, check_number
from enough.scaling._models import DifferentiableModel
from enough.scaling._multipower import MultiPower, read_drops
from enough.scaling._starts import best_distinct, nonnegative_least_squares
from enough.scaling._table import read_columns, read_weights
from enough.scaling.fit import Fit, solve
from enough.scaling.laws import Law

__all__ = ["AnnealingLaw", "MultiPowerLaw", "annealing_areas"]


def annealing_areas(rates: Any, momentum: float = 0.999) -> tuple[np.ndarray, np.ndarray]:
    """Return the forward area S₁ and the annealing area S₂ after each step of a schedule.

    S₁(s) = Σ_{i ≤ s} η_i and S₂(s) = Σ_{i ≤ s} m_i with m_i = λ m_{i−1} + (η_{i−1} − η_i) and
    m_1 = 0 [1]_.

    Parameters
    ----------
    rates : array_like, shape (steps,)
        Learning rates η; count warm-up at the peak, as the paper does.
    momentum : float, default 0.999
        The decay λ, in [0, 1).

    Returns
    -------
    forward, annealing : numpy.ndarray, shape (steps,)
        S₁ and S₂.

    Raises
    ------
    ValueError
        If ``rates`` is not a vector of finite numbers ≥ 0 or ``momentum`` is out of range.

    References
    ----------
    .. [1] H. Tissue et al., Scaling Law with Learning Rate Annealing, equation 1.
    """
    momentum = check_number(momentum, "momentum", minimum=0, below=1)
    values = _rates(rates, "rates")
    drops = np.concatenate([[0.0], -np.diff(values)])
    return np.cumsum(values), np.cumsum(lfilter([1.0], [1.0, -momentum], drops))


class AnnealingLaw(Law):
    """L(s) = L_0 + A S₁(s)^−α − C S₂(s) [1]_.

    Columns ``schedule`` (a name), ``step`` (1 for the first) and ``loss``; the schedules' learning
    rates are given apart.

    References
    ----------
    .. [1] H. Tissue et al., Scaling Law with Learning Rate Annealing, equation 1.
    """

    columns = ("schedule", "step")
    symbols = ("L_0", "A", "C", "alpha")

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        schedules: Mapping[str, Any],
        momentum: float = 0.999,
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
            Columns schedule, step and loss.
        schedules : mapping of str to array_like
            Learning rate of every step, by schedule.
        momentum : float, default 0.999
            The decay λ of the annealing area.
        huber_delta : float, default 1e-3
            Width of the quadratic zone; ``inf`` gives least squares.
        starts : int, default 8
            Points of the grid over α to start from.
        weights : array_like, shape (n,), optional
            Weights of the rows.
        bootstrap : int, default 0
            Replicas of the rows.
        generator : torch.Generator or int, optional
            Source of the replicas.
        groups : array_like, shape (n,), optional
            Rows with equal labels are resampled together; whole curves are the honest choice.

        Returns
        -------
        Fit
            The fitted law.

        Raises
        ------
        ValueError
            If a column is missing, a schedule is unknown, a step lies beyond its schedule, or no
            schedule anneals (then C is not determined).
        """
        forward, annealed = _areas(data, schedules, momentum)
        loss = read_columns(data, ["loss"], rows=4, positive=["loss"])["loss"]
        scale_c = annealed.abs().max()
        if not scale_c > 0:
            raise ValueError("schedules: expected one that anneals, got constant learning rates")
        weight, y = read_weights(weights, len(loss)), loss.log()
        center = forward.log().mean()
        x, z = forward.log() - center, annealed / scale_c

        def function(theta: Tensor) -> Tensor:
            floor, log_a, c, log_alpha = theta
            return (floor + (log_a - log_alpha.exp() * x).exp() - c * z).clamp_min(1e-9).log()

        alphas = torch.logspace(-1.5, 0.7, 201, dtype=torch.float64)
        root = weight.sqrt() / loss
        design = torch.stack(
            [torch.ones(201, len(x), dtype=torch.float64), (-alphas[:, None] * x).exp(),
             -z.expand(201, -1)], -1
        ) * root[:, None]  # fmt: skip
        line = torch.linalg.lstsq(design, (root * loss).expand(201, -1)[..., None]).solution
        residual = ((design @ line)[..., 0] - root * loss).square().sum(-1)
        line = line[..., 0]
        score = torch.where(line[:, 1] > 0, residual, torch.inf)
        at = best_distinct(score, (201,), check_integer(starts, "starts", minimum=1))
        at = at[score[at].isfinite()]
        if not len(at):
            raise ValueError("loss: expected a loss that falls with the forward area, got none")
        theta = torch.stack([line[at, 0], line[at, 1].log(), line[at, 2], alphas[at].log()], -1)

        def read(theta: Tensor) -> dict[str, Tensor]:
            floor, log_a, c, log_alpha = theta.T
            alpha = log_alpha.exp()
            return {
                "L_0": floor,
                "A": (log_a + alpha * center).exp(),
                "C": c / scale_c,
                "alpha": alpha,
            }

        return solve(
            cls, DifferentiableModel(function), theta, y, weight, read,
            {"L_0": "share", "A": "log", "C": "share", "alpha": "log"},
            huber_delta=huber_delta, logarithmic=True, bootstrap=bootstrap, generator=generator,
            groups=groups, settings={"schedules": schedules, "momentum": momentum},
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return the loss after the given steps.

        Parameters
        ----------
        params : mapping of str to float
            L_0, A, C, alpha.
        data : pandas.DataFrame or mapping
            Columns schedule and step.
        **settings
            schedules : learning rates by schedule; momentum : the decay λ.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted losses.
        """
        forward, annealed = _areas(data, settings["schedules"], settings.get("momentum", 0.999))
        power = params["A"] * forward ** -params["alpha"]
        return (params["L_0"] + power - params["C"] * annealed).numpy()


class MultiPowerLaw(Law):
    """L(s) = L_0 + A S₁(s)^−α − B Σ_k (η_{k−1} − η_k) G(η_k^−γ S_k(s)) [1]_.

    G(x) = 1 − (C x + 1)^−β, S₁ the sum of learning rates up to s and S_k(s) that from k to s. The
    sum runs over warm-up too, whose rising learning rates make its terms positive: L_0 is therefore
    not the loss that the curve tends to. Columns ``schedule`` (a name), ``step`` (1 for the first)
    and ``loss``; the schedules' learning rates, warm-up included, are given apart.

    References
    ----------
    .. [1] K. Luo et al., A Multi-Power Law for Loss Curve Prediction Across Learning Rate
       Schedules.
    """

    columns = ("schedule", "step")
    symbols = ("L_0", "A", "alpha", "B", "C", "beta", "gamma")

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        schedules: Mapping[str, Any],
        huber_delta: float = 1e-3,
        starts: int = 8,
        weights: Any = None,
        bootstrap: int = 0,
        generator: torch.Generator | int | None = None,
        groups: Any = None,
    ) -> Fit:
        """Fit the law by a Huber loss of the logarithms, to the global optimum.

        L_0, A and B follow in closed form at every point of a grid over α, β, γ and C (variable
        projection); the best points are the starts of a Newton method on the exact objective.

        Parameters
        ----------
        data : pandas.DataFrame or mapping
            Columns schedule, step and loss. A few hundred rows a curve are enough.
        schedules : mapping of str to array_like
            Learning rate of every step, by schedule, warm-up included.
        huber_delta : float, default 1e-3
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
            Rows with equal labels are resampled together; whole curves are the honest choice.

        Returns
        -------
        Fit
            The fitted law.

        Raises
        ------
        ValueError
            If a column is missing, a schedule is unknown, a step lies beyond its schedule or
            before the first positive learning rate, no learning rate changes (then B, C, β and γ
            are not determined), or the loss does not fall with the forward area.

        Notes
        -----
        Drops whose distances to a row's step, and whose learning rates, are nearly equal are
        joined in the fit; predictions move by about one part in a million, which on schedules with
        thousands of drops is far below the scatter of a loss. `evaluate` takes every drop.

        On the curves published with the paper the optimum of this objective lies far from the
        published constants and fits the training curves better; on longer schedules than it has
        seen it predicts worse. Three curves of one length do not pin down how a gain grows.
        """
        names, steps, known = _rows(data, schedules)
        loss = read_columns(data, ["loss"], rows=8, positive=["loss"])["loss"]
        weight, y = read_weights(weights, len(loss)), loss.log()
        drops, forward = read_drops(names, steps, known)
        if not (forward > 0).all():
            raise ValueError("step: expected steps after the first positive learning rate")
        if not (drops.size.any() or drops.sure.any()):
            raise ValueError("schedules: expected one that changes, got constant learning rates")
        center = forward.log().mean()
        x = forward.log() - center
        model = MultiPower(drops, x)
        theta = _multi_power_starts(model, loss, weight, check_integer(starts, "starts", minimum=1))
        if not len(theta):
            raise ValueError("loss: expected a loss that falls with the forward area, got none")

        def read(theta: Tensor) -> dict[str, Tensor]:
            floor, log_a, log_alpha, log_b, c, log_beta, gamma = theta.T
            alpha = log_alpha.exp()
            return {
                "L_0": floor,
                "A": (log_a + alpha * center).exp(),
                "alpha": alpha,
                "B": log_b.exp(),
                "C": (c + gamma * drops.reference).exp(),
                "beta": log_beta.exp(),
                "gamma": gamma,
            }

        kinds = dict.fromkeys(cls.symbols, "log") | {"L_0": "share", "gamma": "share"}
        return solve(
            cls, model, theta, y, weight, read, kinds, huber_delta=huber_delta, logarithmic=True,
            bootstrap=bootstrap, generator=generator, groups=groups,
            settings={"schedules": schedules},
        )  # fmt: skip

    @classmethod
    def evaluate(cls, params: Mapping[str, float], data: Any, **settings: Any) -> np.ndarray:
        """Return the loss after the given steps.

        Parameters
        ----------
        params : mapping of str to float
            L_0, A, alpha, B, C, beta, gamma.
        data : pandas.DataFrame or mapping
            Columns schedule and step.
        **settings
            schedules : learning rates by schedule, warm-up included.

        Returns
        -------
        numpy.ndarray, shape (n,)
            Predicted losses.

        Raises
        ------
        ValueError
            If a column is missing, a schedule is unknown or a step lies beyond its schedule.
        """
        names, steps, known = _rows(data, settings["schedules"])
        result = np.empty(len(steps))
        for name, rates in known.items():
            rows = np.flatnonzero(names == name)
            total = np.concatenate([[0.0], np.cumsum(rates)])  # total[s] after s steps
            changes = np.flatnonzero(np.diff(rates)) + 1  # positions k with η_{k−1} ≠ η_k
            drops = rates[changes - 1] - rates[changes]
            with np.errstate(divide="ignore"):
                scale = np.where(rates[changes] > 0, rates[changes], np.nan) ** -params["gamma"]
            for row in rows:
                step = steps[row]
                past = changes < step
                reach = total[step] - total[changes[past]]
                gain = 1 - (params["C"] * scale[past] * reach + 1) ** -params["beta"]
                gain = np.where(np.isnan(gain), np.where(reach > 0, 1.0, 0.0), gain)
                result[row] = (
                    params["L_0"]
                    + params["A"] * total[step] ** -params["alpha"]
                    - params["B"] * (drops[past] * gain).sum()
                )
        return result


def _multi_power_starts(model: MultiPower, loss: Tensor, weight: Tensor, count: int) -> Tensor:
    """Return the best points of a grid over α, C, β and γ, the coefficients in closed form."""
    alphas, scales, betas, gammas = (
        torch.logspace(-1.2, 0.5, 12, dtype=torch.float64).log(),
        torch.linspace(-3.0, 15.0, 10, dtype=torch.float64),
        torch.logspace(-1.0, 0.6, 6, dtype=torch.float64).log(),
        torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64),
    )
    # The gains saturate over a share of the whole area: C is measured by it.
    scales = scales - model.drops.reach[model.drops.size != 0].max()
    root = weight.sqrt() / loss
    powers = (-alphas.exp()[:, None] * model.log_forward).exp()
    points, scores = [], []
    for c, beta, gamma in torch.cartesian_prod(scales, betas, gammas):
        gains = model.gains(c, beta.exp(), gamma)
        columns = torch.stack(
            [torch.ones_like(powers), powers, -gains.expand_as(powers)], -1
        ) * root[:, None]  # fmt: skip
        line, residual = nonnegative_least_squares(columns, weight.sqrt())
        usable = (line[:, 1:] > 0).all(-1)
        scores.append(torch.where(usable, residual, torch.inf))
        rest = torch.stack([c, beta, gamma]).expand(len(alphas), -1)
        floor, a, b = line.clamp_min(1e-12).T
        parts = [floor[:, None], a.log()[:, None], alphas[:, None], b.log()[:, None], rest]
        points.append(torch.cat(parts, -1))
    score = torch.cat(scores)
    shape = (len(scales), len(betas), len(gammas), len(alphas))
    at = best_distinct(score, shape, count)
    return torch.cat(points)[at[score[at].isfinite()]]


def _rates(rates: Any, name: str) -> np.ndarray:
    values = np.asarray(rates, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: expected a vector of learning rates, got shape {values.shape}")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"{name}: expected finite learning rates >= 0")
    return values


def _rows(
    data: Any, schedules: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Names and steps of the rows, and the schedules that they name."""
    try:
        names = np.asarray(data["schedule"], dtype=object)
    except (KeyError, TypeError) as error:
        raise ValueError("data: expected a column 'schedule'") from error
    steps = read_columns(data, ["step"])["step"].numpy()
    if names.shape != steps.shape:
        raise ValueError(
            f"schedule: expected one name a row, {len(steps)}, got the shape {names.shape}"
        )
    known = {}
    for name in dict.fromkeys(names):
        if name not in schedules:
            raise ValueError(f"schedules: expected {name!r} among them, got {sorted(schedules)}")
        known[name] = _rates(schedules[name], f"schedules[{name!r}]")
        last, most = steps[names == name].max(), len(known[name])
        if steps[names == name].min() < 1 or last > most:
            raise ValueError(f"step: expected 1 to {most} for {name!r}, got up to {last:g}")
    return names, steps.astype(np.int64), known


def _areas(data: Any, schedules: Mapping[str, Any], momentum: float) -> tuple[Tensor, Tensor]:
    names, steps, known = _rows(data, schedules)
    forward, annealed = np.empty(len(steps)), np.empty(len(steps))
    for name, rates in known.items():
        rows = names == name
        s1, s2 = annealing_areas(rates, momentum)
        forward[rows], annealed[rows] = s1[steps[rows] - 1], s2[steps[rows] - 1]
    if not (forward > 0).all():
        raise ValueError("step: expected steps after the first positive learning rate")
    return torch.from_numpy(forward), torch.from_numpy(annealed)
