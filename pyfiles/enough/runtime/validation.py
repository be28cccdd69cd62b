"""Checks at the public edge, and arrays that go back as they came.

Every message names the argument, what was expected and what came, so that a reader
who passes the wrong thing learns it from the first line of the traceback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

__all__ = [
    "as_tensors",
    "check_choice",
    "check_integer",
    "check_number",
    "check_tensor",
]


def as_tensors(**arrays: Any) -> tuple[list[torch.Tensor], Callable[[torch.Tensor], Any]]:
    """Turn named arrays into tensors and return the way back.

    Parameters
    ----------
    **arrays : torch.Tensor, numpy.ndarray, or nested sequence of numbers
        The arguments by name. Tensors keep their device and dtype; numpy arrays and
        sequences become CPU tensors that share memory where they can.

    Returns
    -------
    tensors : list of torch.Tensor
        In the order given.
    restore : callable
        Maps a result tensor to what the caller works with: a numpy array when no
        argument was a tensor, the tensor itself otherwise.

    Raises
    ------
    ValueError
        If an argument is not an array of numbers, or tensors live on several devices.
    """
    given_tensor = any(isinstance(value, torch.Tensor) for value in arrays.values())
    tensors = []
    for name, value in arrays.items():
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            continue
        try:
            array = np.asarray(value)
            if array.dtype == object or array.dtype.kind in "USV":
                raise TypeError(f"dtype {array.dtype}")
            if not array.flags.writeable:
                array = array.copy()
            tensors.append(torch.as_tensor(array))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name}: expected a tensor or an array of numbers, "
                f"got {type(value).__name__} ({error})"
            ) from error
    devices = {str(t.device) for t in tensors if t.ndim > 0}
    if len(devices) > 1:
        raise ValueError(
            f"{', '.join(arrays)}: expected all on one device, got {', '.join(sorted(devices))}"
        )

    def restore(result: torch.Tensor) -> Any:
        return result if given_tensor else result.detach().cpu().numpy()

    return tensors, restore


def check_tensor(
    value: torch.Tensor,
    name: str,
    *,
    ndim: int | Sequence[int] | None = None,
    shape: Sequence[int | None] | None = None,
    floating: bool = False,
    finite: bool = True,
    minimum: float | None = None,
    maximum: float | None = None,
    nonempty: bool = True,
) -> torch.Tensor:
    """Check one tensor and return it.

    Parameters
    ----------
    value : torch.Tensor
        The tensor to check.
    name : str
        The argument's name, for the message.
    ndim : int or sequence of int, optional
        Allowed numbers of dimensions.
    shape : sequence of int or None, optional
        Expected shape; ``None`` stands for any length.
    floating : bool, default False
        Require a floating-point dtype.
    finite : bool, default True
        Refuse NaN and infinities.
    minimum, maximum : float, optional
        Inclusive range of the entries.
    nonempty : bool, default True
        Refuse a tensor without entries.

    Returns
    -------
    torch.Tensor
        ``value`` itself.

    Raises
    ------
    ValueError
        If a check fails; the message names the argument, the expectation and the finding.
    """
    if ndim is not None:
        allowed = (ndim,) if isinstance(ndim, int) else tuple(ndim)
        if value.ndim not in allowed:
            wanted = " or ".join(str(n) for n in allowed)
            raise ValueError(
                f"{name}: expected {wanted} dimension(s), got shape {tuple(value.shape)}"
            )
    if shape is not None:
        fits = value.ndim == len(shape) and all(
            want is None or want == have for want, have in zip(shape, value.shape, strict=True)
        )
        if not fits:
            wanted = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
            raise ValueError(f"{name}: expected shape {wanted}, got {tuple(value.shape)}")
    if nonempty and value.numel() == 0:
        raise ValueError(f"{name}: expected at least one entry, got shape {tuple(value.shape)}")
    if floating and not value.is_floating_point():
        raise ValueError(f"{name}: expected a floating-point dtype, got {value.dtype}")
    if finite and value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name}: expected finite numbers, got {bad} NaN or infinite entries")
    if minimum is not None and value.numel() and bool((value < minimum).any()):
        raise ValueError(f"{name}: expected entries >= {minimum}, got {value.min().item()}")
    if maximum is not None and value.numel() and bool((value > maximum).any()):
        raise ValueError(f"{name}: expected entries <= {maximum}, got {value.max().item()}")
    return value


def check_integer(
    value: Any, name: str, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """Return ``value`` as an ``int`` in ``[minimum, maximum]``.

    Parameters
    ----------
    value : int
        A Python or numpy integer, or an integral float; booleans are refused.
    name : str
        The argument's name, for the message.
    minimum, maximum : int, optional
        Inclusive range.

    Returns
    -------
    int
        The whole number.

    Raises
    ------
    ValueError
        If ``value`` is not a whole number in the range.
    """
    whole = isinstance(value, Integral) or (
        isinstance(value, Real) and math.isfinite(value) and float(value).is_integer()
    )
    if isinstance(value, bool | np.bool_) or not whole:
        raise ValueError(f"{name}: expected a whole number, got {value!r}")
    return int(_check_range(int(value), name, minimum, maximum))


def check_number(
    value: Any,
    name: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> float:
    """Return ``value`` as a ``float`` in the range.

    Parameters
    ----------
    value : float
        A real number, or an array or tensor with one entry.
    name : str
        The argument's name, for the message.
    minimum, maximum : float, optional
        Inclusive range.
    above, below : float, optional
        Exclusive range.
    finite : bool, default True
        Refuse infinities. NaN is always refused.

    Returns
    -------
    float
        The number.

    Raises
    ------
    ValueError
        If ``value`` is not a number in the range.
    """
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected a number, got {value!r}") from error
    if math.isnan(number) or (finite and math.isinf(number)):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    if above is not None and not number > above:
        raise ValueError(f"{name}: expected a number > {above}, got {number}")
    if below is not None and not number < below:
        raise ValueError(f"{name}: expected a number < {below}, got {number}")
    return _check_range(number, name, minimum, maximum)


def check_choice(value: Any, name: str, choices: Iterable[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``.

    Parameters
    ----------
    value : object
        The value to check.
    name : str
        The argument's name, for the message.
    choices : iterable
        The allowed values.

    Returns
    -------
    object
        ``value`` itself.

    Raises
    ------
    ValueError
        If ``value`` is none of them.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def _check_range(number: Any, name: str, minimum: Any, maximum: Any) -> Any:
    if minimum is not None and number < minimum:
        raise ValueError(f"{name}: expected a number >= {minimum}, got {number}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name}: expected a number <= {maximum}, got {number}")
    return number
