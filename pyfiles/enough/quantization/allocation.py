"""How many bits each layer gets: an integer program, solved exactly.

References
----------
.. [1] I. Hubara, Y. Nahshan, Y. Hanani, R. Banner and D. Soudry, "Accurate Post Training
   Quantization With Small Calibration Sets", ICML 2021, arXiv:2006.10518.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from enough.runtime.validation import check_integer, check_number

__all__ = ["allocate_bits", "allocate_bits_greedily", "minimize_size"]

# HiGHS stops at an absolute gap of 1e-6 and checks rows to 1e-6 (neither can be set from here),
# so objectives are scaled to this span and rows to coefficients of at most one.
_OBJECTIVE_SPAN = 1e6


def allocate_bits(
    cost: Mapping[Any, Mapping[int, float]],
    size: Mapping[Any, float],
    budget: float | None = None,
    *,
    operations: Mapping[Any, float] | None = None,
    operations_budget: float | None = None,
    activation_bits: int | Mapping[Any, int] | None = None,
) -> dict[Any, int]:
    r"""Choose each layer's bits so that the summed loss increase is least within a budget.

    Parameters
    ----------
    cost : mapping from layer to mapping from int to float
        ``cost[layer][bits]`` is the loss increase when only that layer has that many bits.
        Layers may offer different bits. Negative entries (a layer that gets better) count as
        they are.
    size : mapping from layer to float
        Number of weights of each layer, zero or more.
    budget : float, optional
        Largest :math:`\sum_l \text{size}_l\, b_l`, in bits.
    operations : mapping from layer to float, optional
        Multiply-accumulates of each layer; needed with ``operations_budget``.
    operations_budget : float, optional
        Largest :math:`\sum_l \text{operations}_l\, b_l\, a_l`, in bit operations, where
        :math:`a_l` are the bits of the layer's input.
    activation_bits : int or mapping from layer to int, optional
        Bits :math:`a_l` of the inputs. By default those of the weights, so that bit operations
        grow with their square.

    Returns
    -------
    dict from layer to int
        Bits by layer, in the order of ``cost``.

    Raises
    ------
    ValueError
        If no budget is given, an argument does not fit the others, an entry is not finite, or
        no choice meets a budget; the message then names the smallest feasible one.

    Notes
    -----
    The integer program of [1]_: a binary variable for each layer and each of its bits, one of
    them on in every layer, the summed cost least, one row for each budget.
    `scipy.optimize.milp` solves it; no answer that breaks a budget, and none that is merely
    close to the best, is returned. That costs of layers add up is an approximation: measure the
    model that comes out.

    References
    ----------
    .. [1] I. Hubara, Y. Nahshan, Y. Hanani, R. Banner and D. Soudry, "Accurate Post Training
       Quantization With Small Calibration Sets", ICML 2021, arXiv:2006.10518.

    Examples
    --------
    >>> cost = {"first": {2: 0.16, 4: 0.01, 8: 0.0}, "second": {2: 0.03, 4: 0.002, 8: 0.0}}
    >>> allocate_bits(cost, {"first": 144, "second": 4608}, budget=2.5 * (144 + 4608))
    {'first': 8, 'second': 2}
    """
    options = _options(cost, size)
    limits = []
    if budget is not None:
        limits.append(_Limit("budget", options.sizes * options.bits, _budget(budget, "budget")))
    if operations_budget is not None:
        if operations is None:
            raise ValueError("operations: expected operations by layer with operations_budget")
        counts = _per_layer(operations, options.layers, "operations")[options.owner]
        if activation_bits is None:
            inputs = options.bits
        elif isinstance(activation_bits, Mapping):
            inputs = _per_layer(activation_bits, options.layers, "activation_bits")[options.owner]
        else:
            inputs = check_integer(activation_bits, "activation_bits", minimum=1)
        use = counts * options.bits * inputs
        limits.append(
            _Limit("operations_budget", use, _budget(operations_budget, "operations_budget"))
        )
    elif operations is not None or activation_bits is not None:
        raise ValueError("operations_budget: expected a number with operations, got None")
    if not limits:
        raise ValueError("budget: expected a number, or operations_budget, got neither")
    return _solve(options, options.costs, limits)


def minimize_size(
    cost: Mapping[Any, Mapping[int, float]], size: Mapping[Any, float], loss_budget: float
) -> dict[Any, int]:
    r"""Choose each layer's bits so that the model is smallest within a loss budget.

    The dual of `allocate_bits`.

    Parameters
    ----------
    cost : mapping from layer to mapping from int to float
        ``cost[layer][bits]``, as in `allocate_bits`.
    size : mapping from layer to float
        Number of weights of each layer, zero or more.
    loss_budget : float
        Largest :math:`\sum_l \text{cost}_l(b_l)`, in the units of ``cost``.

    Returns
    -------
    dict from layer to int
        Bits by layer, in the order of ``cost``.

    Raises
    ------
    ValueError
        If an argument does not fit the others, an entry is not finite, or no choice meets the
        loss budget; the message then names the smallest feasible one.

    Examples
    --------
    >>> cost = {"first": {2: 0.16, 4: 0.01, 8: 0.0}, "second": {2: 0.03, 4: 0.002, 8: 0.0}}
    >>> minimize_size(cost, {"first": 144, "second": 4608}, loss_budget=0.04)
    {'first': 4, 'second': 2}
    """
    options = _options(cost, size)
    limit = _Limit("loss_budget", options.costs, check_number(loss_budget, "loss_budget"))
    return _solve(options, options.sizes * options.bits, [limit])


def allocate_bits_greedily(
    cost: Mapping[Any, Mapping[int, float]], size: Mapping[Any, float], budget: float
) -> dict[Any, int]:
    """Choose bits greedily: the baseline that the integer program has to beat.

    Every layer starts at its fewest bits. Then, as long as an upgrade fits into the budget, the
    one with the largest fall of the cost for each bit of storage is made. Upgrades that do not
    lower the cost are never made.

    Parameters
    ----------
    cost : mapping from layer to mapping from int to float
        ``cost[layer][bits]``, as in `allocate_bits`.
    size : mapping from layer to float
        Number of weights of each layer, zero or more.
    budget : float
        Largest total of size times bits.

    Returns
    -------
    dict from layer to int
        Bits by layer, in the order of ``cost``.

    Raises
    ------
    ValueError
        As in `allocate_bits`.

    Examples
    --------
    >>> cost = {"first": {2: 0.16, 4: 0.01, 8: 0.0}, "second": {2: 0.03, 4: 0.002, 8: 0.0}}
    >>> allocate_bits_greedily(cost, {"first": 144, "second": 4608}, 2.5 * (144 + 4608))
    {'first': 8, 'second': 2}
    """
    options = _options(cost, size)
    use = options.sizes * options.bits
    limit = _Limit("budget", use, _budget(budget, "budget"))
    _check_feasible(options, limit)
    chosen = options.least(use, options.costs)
    while True:
        best, best_rate = None, 0.0
        spent = math.fsum(use[chosen])
        for option, layer in enumerate(options.owner):
            fall = options.costs[chosen[layer]] - options.costs[option]
            extra = use[option] - use[chosen[layer]]
            if fall <= 0 or spent + extra > limit.most:
                continue
            rate = fall / extra if extra > 0 else math.inf
            if rate > best_rate:
                best, best_rate = option, rate
        if best is None:
            return options.answer(chosen)
        chosen[options.owner[best]] = best


@dataclass(frozen=True)
class _Options:
    """All pairs of a layer and its bits, one after the other."""

    layers: list[Hashable]
    owner: np.ndarray  # index of the layer
    bits: np.ndarray
    costs: np.ndarray
    sizes: np.ndarray  # of the layer

    def least(self, values: np.ndarray, ties: np.ndarray) -> np.ndarray:
        """Find each layer's option of least value, among equals that of least ``ties``."""
        order = np.lexsort((ties, values, self.owner))
        first = np.unique(self.owner[order], return_index=True)[1]
        return order[first]

    def answer(self, chosen: np.ndarray) -> dict[Any, int]:
        """Name the bits of the chosen options."""
        return dict(zip(self.layers, self.bits[chosen].tolist(), strict=True))


@dataclass(frozen=True)
class _Limit:
    """One row of the program: the summed use of the chosen options is at most ``most``."""

    name: str
    use: np.ndarray
    most: float

    def allows(self, chosen: np.ndarray) -> bool:
        """Tell whether the chosen options keep within the limit, up to rounding of the sum."""
        used = self.use[chosen]
        slack = 4 * np.finfo(float).eps * math.fsum(np.abs(used))
        return math.fsum(used) <= self.most + slack


def _options(cost: Any, size: Any) -> _Options:
    """Check cost and size, and list the options."""
    if isinstance(cost, Sequence) and not isinstance(cost, str):
        cost = dict(enumerate(cost))
    if not isinstance(cost, Mapping) or not cost:
        raise ValueError(f"cost: expected a mapping with at least one layer, got {cost!r}")
    layers = list(cost)
    owner, bits, costs = [], [], []
    for index, layer in enumerate(layers):
        row = cost[layer]
        if not isinstance(row, Mapping) or not row:
            raise ValueError(
                f"cost[{layer!r}]: expected a mapping from bits to loss increase, got {row!r}"
            )
        for width, value in row.items():
            owner.append(index)
            bits.append(check_integer(width, f"cost[{layer!r}]: bits", minimum=1))
            costs.append(check_number(value, f"cost[{layer!r}][{width}]"))
    owner = np.array(owner)
    sizes = _per_layer(size, layers, "size")
    return _Options(layers, owner, np.array(bits), np.array(costs), sizes[owner])


def _per_layer(values: Any, layers: list[Hashable], name: str) -> np.ndarray:
    """Check numbers by layer and return them in the order of the layers."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        values = dict(enumerate(values))
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}: expected numbers by layer, got {type(values).__name__}")
    missing = [layer for layer in layers if layer not in values]
    unknown = [layer for layer in values if layer not in layers]
    if missing or unknown:
        found = f"{missing[0]!r} missing" if missing else f"unknown layer {unknown[0]!r}"
        raise ValueError(f"{name}: expected the layers of cost, got {found}")
    return np.array([check_number(values[n], f"{name}[{n!r}]", minimum=0.0) for n in layers])


def _budget(value: Any, name: str) -> float:
    return check_number(value, name, minimum=0.0)


def _check_feasible(options: _Options, limit: _Limit) -> None:
    """Refuse a limit that even the most frugal options break."""
    frugal = options.least(limit.use, limit.use)
    if not limit.allows(frugal):
        least = math.fsum(limit.use[frugal])
        raise ValueError(
            f"{limit.name}: expected at least {least:.15g}, the smallest feasible one, "
            f"got {limit.most:.15g}"
        )


def _solve(options: _Options, objective: np.ndarray, limits: list[_Limit]) -> dict[Any, int]:
    """Minimize the summed objective, one option a layer, within the limits."""
    for limit in limits:
        _check_feasible(options, limit)
    n_layers, n_options = len(options.layers), len(options.owner)
    # Within a layer only differences matter; a zero floor keeps the sums small.
    floor = objective[options.least(objective, objective)]
    excess = objective - floor[options.owner]
    span = excess.max()
    one_each = (options.owner == np.arange(n_layers)[:, None]).astype(float)
    rows = [LinearConstraint(one_each, 1.0, 1.0)]
    for limit in limits:
        scale = np.abs(limit.use).max() or 1.0
        rows.append(LinearConstraint(limit.use[None] / scale, -np.inf, limit.most / scale))
    while True:
        result = milp(
            excess * (_OBJECTIVE_SPAN / span) if span > 0 else excess,
            integrality=np.ones(n_options),
            bounds=Bounds(0.0, 1.0),
            constraints=rows,
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            raise RuntimeError(f"milp: expected a solution, got status {result.status}")
        chosen = np.array(
            [
                max(np.flatnonzero(options.owner == i), key=result.x.__getitem__)
                for i in range(n_layers)
            ]
        )
        if all(limit.allows(chosen) for limit in limits):
            return options.answer(chosen)
        # Within the solver's tolerance but not within the budget: this choice is cut off.
        rows.append(
            LinearConstraint(
                np.isin(np.arange(n_options), chosen)[None].astype(float), -np.inf, n_layers - 1.0
            )
        )
