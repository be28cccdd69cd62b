"""Numbers read off a sample and a trained network, in the hope that they bound its error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from enough.runtime import as_generator
from enough.runtime.validation import check_integer, check_number, check_tensor

__all__ = ["generalization_measures"]


def generalization_measures(
    module: nn.Module,
    start: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    *,
    scales: Sequence[float] = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32),
    tolerance: float = 0.1,
    draws: int = 8,
    confidence: float = 0.95,
    generator: torch.Generator | int | None = 0,
) -> dict[str, float]:
    r"""Compute a norm, a margin, a sharpness and a PAC-Bayes number of a trained classifier.

    Parameters
    ----------
    module : torch.nn.Module
        The trained network; logits (n, K).
    start : mapping from str to torch.Tensor
        Its parameters before training, by name.
    x : torch.Tensor, shape (n, ...)
        Training inputs.
    y : torch.Tensor of int64, shape (n,)
        Training labels.
    scales : sequence of float, default (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
        Standard deviations of Gaussian perturbations of the weights, rising.
    tolerance : float, default 0.1
        Largest mean training error under perturbation that counts as flat.
    draws : int, default 8
        Perturbations a scale.
    confidence : float, default 0.95
        Of the PAC-Bayes number, 1 - delta, in (0, 1).
    generator : torch.Generator, int, or None, default 0
        Source of the perturbations. With the same seed the result is a function of the sample,
        the weights and the start.

    Returns
    -------
    dict from str to float
        ``"norm"``: :math:`\prod_l \|W_l\|_F / \sqrt n` over the weight matrices. ``"margin"``:
        that, divided by the 10 % quantile :math:`\gamma` of the margins (infinite unless
        :math:`\gamma > 0`). ``"sharpness"``: :math:`\|w - w_0\| / (2 \sigma \sqrt n)` with the
        largest scale :math:`\sigma` that keeps the mean perturbed training error within the
        tolerance. ``"pac_bayes"``: that error plus
        :math:`\sqrt{(\|w-w_0\|^2/(2\sigma^2) + \ln(2\sqrt n/\delta)) / (2n)}`. Where no scale
        keeps within the tolerance the smallest is used.

    Raises
    ------
    ValueError
        If an argument is out of range or ``start`` lacks a parameter.

    Notes
    -----
    These are representatives of four families, not the sharpest of each. The PAC-Bayes number
    takes the scale after seeing the data, without the union bound that would make it a theorem.
    """
    check_tensor(x, "x", floating=True)
    n = len(x)
    check_tensor(y, "y", shape=(n,))
    draws = check_integer(draws, "draws", minimum=1)
    tolerance = check_number(tolerance, "tolerance", minimum=0.0, below=1.0)
    confidence = check_number(confidence, "confidence", above=0.0, below=1.0)
    scales = [check_number(scale, "scales", above=0.0) for scale in scales]
    if not scales or sorted(scales) != scales:
        raise ValueError(f"scales: expected rising numbers, got {scales!r}")
    weights = {name: value.detach() for name, value in module.named_parameters()}
    absent = sorted(set(weights) - set(start))
    if absent:
        raise ValueError(f"start: expected the parameter {absent[0]!r} among the names, got none")
    stream = as_generator(generator, x.device)
    scale, error = _flattest(module, weights, x, y, scales, tolerance, draws, stream)
    moved = sum(float((weights[k] - start[k].detach()).double().square().sum()) for k in weights)
    product = math.prod(float(w.double().norm()) for w in weights.values() if w.ndim >= 2)
    with torch.no_grad():
        logits = functional_call(module, weights, (x,)).double()
    right = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -math.inf).amax(1)
    margin = float(torch.quantile(right - others, 0.1))
    complexity = moved / (2 * scale**2) + math.log(2 * math.sqrt(n) / (1 - confidence))
    return {
        "norm": product / math.sqrt(n),
        "margin": product / (margin * math.sqrt(n)) if margin > 0 else math.inf,
        "sharpness": math.sqrt(moved / n) / (2 * scale),
        "pac_bayes": error + math.sqrt(complexity / (2 * n)),
    }


def _flattest(
    module: nn.Module,
    weights: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    scales: Sequence[float],
    tolerance: float,
    draws: int,
    stream: torch.Generator,
) -> tuple[float, float]:
    """Return the largest scale within the tolerance and its mean perturbed training error."""
    shakes = {
        name: torch.randn(draws, *w.shape, generator=stream, device=w.device, dtype=w.dtype)
        for name, w in weights.items()
    }
    run = vmap(lambda p: functional_call(module, p, (x,)))

    def error_at(scale: float) -> float:
        shaken = {name: w + scale * shakes[name] for name, w in weights.items()}
        with torch.no_grad():
            return float((run(shaken).argmax(-1) != y).double().mean())

    errors = [error_at(scale) for scale in scales]
    within = [i for i, error in enumerate(errors) if error <= tolerance]
    best = within[-1] if within else 0
    return scales[best], errors[best]
