"""Biases of a quantized model, trained to restore what the full-precision model answers.

References
----------
.. [1] I. Hubara, Y. Nahshan, Y. Hanani, R. Banner and D. Soudry, "Accurate Post Training
   Quantization With Small Calibration Sets", ICML 2021, arXiv:2006.10518.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enough.quantization.modules import QuantizedLayer
from enough.quantization.passes import logits, outputs, read_batches
from enough.runtime import as_generator
from enough.runtime.validation import check_integer, check_number

__all__ = ["prediction_divergence", "tune_biases"]


def prediction_divergence(target: Tensor, output: Tensor) -> Tensor:
    r"""Compute the mean KL divergence from one set of predictions to another.

    Parameters
    ----------
    target : torch.Tensor, shape (..., classes)
        Scores of the full-precision model.
    output : torch.Tensor of the same shape
        Scores of the quantized model.

    Returns
    -------
    torch.Tensor, shape ()
        Mean of :math:`\mathrm{KL}(\mathrm{softmax}(t) \,\|\, \mathrm{softmax}(o))` in nats, zero
        where scores differ by a constant only. Gradients flow.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if target.shape != output.shape:
        raise ValueError(f"output: expected shape {tuple(target.shape)}, got {tuple(output.shape)}")
    dtype = torch.promote_types(target.dtype, torch.float32)
    p, q = (F.log_softmax(t.to(dtype).flatten(0, -2), -1) for t in (target, output))
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


def tune_biases(
    model: nn.Module,
    reference: nn.Module,
    calibration_data: Any,
    *,
    steps: int = 100,
    lr: float = 0.1,
    momentum: float = 0.9,
    batch_size: int = 64,
    generator: torch.Generator | int | None = None,
) -> nn.Module:
    """Train nothing but the biases of quantized layers, on the predictions of the original.

    Parameters
    ----------
    model : torch.nn.Module
        A quantized model, from `quantize_model`; it stays as it is.
    reference : torch.nn.Module
        The full-precision model.
    calibration_data : array, mapping, or iterable of batches
        As in `quantize_model`; no labels are needed.
    steps : int, default 100
        Steps of SGD.
    lr : float, default 0.1
        Its learning rate at the start; it falls to zero along a cosine.
    momentum : float, default 0.9
        Its momentum.
    batch_size : int, default 64
        Samples in a batch, where data come as one array; batches are visited in random order.
    generator : torch.Generator or int, optional
        Draws the order of the batches. ``None`` seeds from the operating system.

    Returns
    -------
    torch.nn.Module
        A copy in evaluation mode. Every `QuantizedLayer` has a bias. If the divergence on the
        calibration data did not fall, the biases are those of ``model``.

    Raises
    ------
    ValueError
        If the model has no quantized layer, its outputs are no scores, or an argument is out of
        range.

    Notes
    -----
    The bias tuning of [1]_: the loss is the KL divergence from the full-precision to the
    quantized softmax over the last dimension of the output (`prediction_divergence`); scores of
    the full-precision model are computed once.

    References
    ----------
    .. [1] Hubara et al., ICML 2021, arXiv:2006.10518, section 4.
    """
    steps = check_integer(steps, "steps", minimum=1)
    lr = check_number(lr, "lr", above=0.0)
    momentum = check_number(momentum, "momentum", minimum=0.0, below=1.0)
    generator = as_generator(generator)
    model = copy.deepcopy(model).eval()
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    if not layers:
        raise ValueError("model: expected quantized layers, got a model without any")
    batches = read_batches(model, calibration_data, batch_size=batch_size)
    was_training = reference.training
    targets = outputs(reference.eval(), batches)
    reference.train(was_training)
    for layer in layers:
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.matrix.new_zeros(layer.spec.out_channels))
    biases = [layer.bias for layer in layers]
    start = [bias.detach().clone() for bias in biases]

    def total() -> float:
        pairs = zip(targets, outputs(model, batches), strict=True)
        return sum(float(prediction_divergence(t, o)) * len(t) for t, o in pairs)

    before = total()
    optimizer = torch.optim.SGD(biases, lr=lr, momentum=momentum)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order: list[int] = []
    for _ in range(steps):
        if not order:
            where = generator.device
            order = torch.randperm(len(batches), generator=generator, device=where).tolist()
        i = order.pop()
        with torch.enable_grad():
            loss = prediction_divergence(targets[i], logits(batches[i].run(model)))
            gradients = torch.autograd.grad(loss, biases, allow_unused=True)
        for bias, gradient in zip(biases, gradients, strict=True):
            bias.grad = gradient
        optimizer.step()
        decay.step()
    for bias in biases:
        bias.grad = None
    if not total() < before:
        with torch.no_grad():
            for bias, value in zip(biases, start, strict=True):
                bias.copy_(value)
    return model
