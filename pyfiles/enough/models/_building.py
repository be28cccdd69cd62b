"""What every model shares: seeded construction, activations with their gains, parameter groups."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enough.runtime import as_generator
from enough.runtime.validation import check_choice, check_number

Activation = Callable[[Tensor], Tensor]


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "identity": _identity,
}


@contextlib.contextmanager
def construction(generator: torch.Generator | int | None) -> Iterator[torch.Generator]:
    """Open the context in which a module is built, global random state kept as it was.

    Parameters
    ----------
    generator : torch.Generator, int, or None
        Source of the weights; ``None`` stands for a fork of the global state.

    Yields
    ------
    torch.Generator
        The generator to draw from.

    Raises
    ------
    ValueError
        If ``generator`` is something else.
    """
    with contextlib.ExitStack() as stack:
        if generator is not None:
            generator = as_generator(generator)
        # torch's own constructors draw too, on the default device.
        device = torch.get_default_device()
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        yield torch.default_generator if generator is None else generator


@torch.no_grad()
def fill_normal(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill a parameter with N(0, std²), the same numbers on every device and in every dtype.

    Parameters
    ----------
    tensor : torch.Tensor
        What to fill.
    std : float
        Standard deviation.
    generator : torch.Generator
        Source of the draws, which are made on its device.
    """
    draws = torch.empty(tensor.shape, dtype=torch.float32, device=generator.device)
    tensor.copy_(draws.normal_(generator=generator).mul_(std))


def resolve_activation(activation: str | Activation) -> Activation:
    """Return the function an ``activation=`` argument stands for.

    Parameters
    ----------
    activation : str or callable
        A key of `ACTIVATIONS`, or a function.

    Returns
    -------
    callable
        The function.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if callable(activation):
        return activation
    return ACTIVATIONS[check_choice(activation, "activation", ACTIVATIONS)]


def activation_gain(activation: Activation) -> float:
    """Compute the gain 1/√E[φ(z)²], z ~ N(0, 1), by Gauss-Hermite quadrature.

    Parameters
    ----------
    activation : callable
        The function φ, elementwise.

    Returns
    -------
    float
        The factor that keeps the variance of preactivations.

    Raises
    ------
    ValueError
        If the second moment is zero or not finite.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(128)
    values = activation(torch.from_numpy(nodes)).detach().numpy()
    moment = float(weights @ values**2) / math.sqrt(2 * math.pi)
    if not (math.isfinite(moment) and moment > 0):
        raise ValueError(
            "activation: expected a function φ with 0 < E[φ(z)²] < ∞ for z ~ N(0, 1), "
            f"got E[φ(z)²] = {moment}"
        )
    return moment**-0.5


def parameter_groups(
    model: nn.Module, multipliers: Mapping[str, float], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Group parameters by learning-rate multiplier and decay, in the order they first appear.

    Matrices (two dimensions or more) decay, vectors do not. The product of learning rate
    and decay is the same for all matrices, whatever their multiplier.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    multipliers : mapping from str to float
        Factor of the learning rate, by parameter name.
    lr : float
        Learning rate before the multipliers.
    weight_decay : float
        Weight decay before the division by the multiplier.

    Returns
    -------
    list of dict
        Groups with ``params``, ``lr``, ``weight_decay`` and ``lr_multiplier``.

    Raises
    ------
    ValueError
        If a number is negative.
    """
    lr = check_number(lr, "lr", minimum=0.0)
    weight_decay = check_number(weight_decay, "weight_decay", minimum=0.0)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        multiplier, decays = multipliers[name], parameter.ndim >= 2
        group = groups.setdefault(
            (multiplier, decays),
            {
                "params": [],
                "lr": lr * multiplier,
                "weight_decay": weight_decay / multiplier if decays else 0.0,
                "lr_multiplier": multiplier,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def check_members(params: Mapping[str, Tensor], names: Iterable[str], x: Tensor) -> int:
    """Check that parameters and input carry the same leading member dimension.

    Parameters
    ----------
    params : mapping from str to torch.Tensor
        Stacked parameters by name.
    names : iterable of str
        The names that must be there.
    x : torch.Tensor
        The stacked input.

    Returns
    -------
    int
        Number of members.

    Raises
    ------
    ValueError
        If a name is missing or the numbers of members differ.
    """
    missing = sorted(set(names) - set(params))
    if missing:
        raise ValueError(f"params: expected every parameter by name, {', '.join(missing)} missing")
    sizes = {value.shape[0] if value.ndim else 0 for value in params.values()}
    if len(sizes) != 1:
        raise ValueError(f"params: expected one number of members first, got {sorted(sizes)}")
    members = sizes.pop()
    if x.ndim == 0 or x.shape[0] != members:
        raise ValueError(f"x: expected {members} members first, got shape {tuple(x.shape)}")
    return members
