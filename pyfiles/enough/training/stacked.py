"""Forward passes of many equal models as one batch, without ``torch.func.vmap``.

A module stacks when its class defines ``stacked_forward(params, buffers, x)``, when it is a
linear layer or works element by element, or when it is a ``torch.nn.Sequential`` of such
modules. Everything else is left to ``vmap``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["stacked_forward", "stacks"]

# They act on each number alone (dropout draws a mask entry for each), so that members in
# front change nothing.
_ELEMENTWISE = (
    nn.CELU,
    nn.Dropout,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
)


def stacks(module: nn.Module) -> bool:
    """Tell whether `stacked_forward` knows a module.

    Parameters
    ----------
    module : torch.nn.Module
        One member.

    Returns
    -------
    bool
        Whether it does. Subclasses of known layers may compute anything, and hooks and
        parametrizations would be passed over, so modules with either do not stack.
    """
    if any(
        m._forward_hooks or m._forward_pre_hooks or hasattr(m, "parametrizations")
        for m in module.modules()
    ):
        return False
    return _known(module)


def stacked_forward(
    module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor
) -> Tensor:
    """Compute the outputs of all members.

    Parameters
    ----------
    module : torch.nn.Module
        One member, for its structure and its mode; its own parameters play no part.
    params : mapping from str to torch.Tensor
        Parameters by name, stacked along a first dimension of length E.
    buffers : mapping from str to torch.Tensor
        Buffers by name, stacked likewise; updated in place where the module would.
    x : torch.Tensor, shape (E, B, ...)
        One batch a member.

    Returns
    -------
    torch.Tensor, shape (E, B, ...)
        One batch of outputs a member.
    """
    return _forward(module, "", params, buffers, x)


def _known(module: nn.Module) -> bool:
    if hasattr(type(module), "stacked_forward"):
        return True
    if type(module) is nn.Sequential:
        return all(_known(child) for child in module)
    if type(module) is nn.Flatten:
        return module.start_dim >= 1
    return type(module) is nn.Linear or type(module) in _ELEMENTWISE


def _forward(
    module: nn.Module,
    prefix: str,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    x: Tensor,
) -> Tensor:
    if hasattr(type(module), "stacked_forward"):
        return module.stacked_forward(_below(params, prefix), _below(buffers, prefix), x)
    if type(module) is nn.Sequential:
        for name, child in module.named_children():
            x = _forward(child, f"{prefix}{name}.", params, buffers, x)
        return x
    if type(module) is nn.Linear:
        return _linear(x, params[f"{prefix}weight"], params.get(f"{prefix}bias"))
    if type(module) is nn.Flatten:
        end = module.end_dim
        return x.flatten(module.start_dim + 1, end if end < 0 else end + 1)
    return module(x)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map (E, ..., in) to (E, ..., out) with weights (E, out, in): one batched product.

    The product is weight @ x.T rather than x @ weight.T: its gradient for the weight comes out
    in the weight's own memory layout, which saves the optimizer a copy.
    """
    batch = x.shape[1:-1]
    rows = x if len(batch) == 1 else x.flatten(1, -2) if batch else x.unsqueeze(1)
    if bias is None:
        out = torch.bmm(weight, rows.mT).mT
    else:
        out = torch.baddbmm(bias.unsqueeze(2), weight, rows.mT).mT
    return out if len(batch) == 1 else out.unflatten(1, batch) if batch else out.squeeze(1)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    if not prefix:
        return tensors
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
