"""NF4: sixteen levels at quantiles of the normal distribution, one absmax a block.

References
----------
.. [1] T. Dettmers, A. Pagnoni, A. Holtzman and L. Zettlemoyer, "QLoRA: Efficient Finetuning of
   Quantized LLMs", NeurIPS 2023, arXiv:2305.14314, section 3.
.. [2] T. Dettmers, M. Lewis, S. Shleifer and L. Zettlemoyer, "8-bit Optimizers via Block-wise
   Quantization", ICLR 2022, arXiv:2110.02861, section 2: the 8-bit dynamic map.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from enough.kernels import join_nibbles, split_nibbles
from enough.quantization.grid import wide_dtype
from enough.runtime.validation import as_tensors, check_integer, check_tensor

__all__ = ["DOUBLE_BLOCK", "NF4Tensor", "nf4_bytes", "nf4_dequantize", "nf4_levels", "nf4_quantize"]

DOUBLE_BLOCK = 256
# Tail probability at which the outermost quantiles are taken: the mean of 1 − 1/32 and 1 − 1/30.
_OFFSET = 0.9677083
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class NF4Tensor:
    """A tensor in NF4, as `nf4_quantize` returns it.

    Parameters
    ----------
    codes : torch.Tensor
        Two four-bit codes in a byte, uint8, shape (ceil(entries/2),).
    absmax : torch.Tensor
        Largest absolute value of each block: float32, shape (blocks,); with ``double`` the
        8-bit codes of it, uint8.
    absmax_scale : torch.Tensor or None
        With ``double``: largest absolute deviation of each block of 256, float32.
    absmax_mean : torch.Tensor or None
        With ``double``: mean of the absmax, float32, one entry.
    shape : torch.Size
        Shape of the original.
    dtype : torch.dtype
        Floating-point dtype of the original.
    block_size : int
        Entries in a block.
    as_numpy : bool
        Whether the original was a NumPy array.
    """

    codes: torch.Tensor
    absmax: torch.Tensor
    absmax_scale: torch.Tensor | None
    absmax_mean: torch.Tensor | None
    shape: torch.Size
    dtype: torch.dtype
    block_size: int
    as_numpy: bool = False

    @property
    def double(self) -> bool:
        """Whether the absmax is quantized too."""
        return self.absmax_scale is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        held = (self.codes, self.absmax, self.absmax_scale, self.absmax_mean)
        return sum(t.numel() * t.element_size() for t in held if t is not None)

    @property
    def bits_per_entry(self) -> float:
        """Stored bits divided by the number of entries."""
        return 8.0 * self.nbytes / self.shape.numel()


def nf4_levels() -> torch.Tensor:
    """Return the sixteen levels of NF4.

    Returns
    -------
    torch.Tensor
        Shape (16,), float32, ascending from −1 to 1; the eighth is 0.

    Notes
    -----
    Eight positive levels and seven negative ones are normal quantiles at equally spaced
    probabilities, scaled to 1 [1]_. Zero is a level of its own, hence the odd split.

    References
    ----------
    .. [1] Dettmers et al., NeurIPS 2023, arXiv:2305.14314, section 3 and appendix E.
    """
    return _normal_levels().clone()


def nf4_quantize(x: Any, block_size: int = 64, double: bool = False) -> NF4Tensor:
    """Quantize a tensor to NF4.

    Parameters
    ----------
    x : array of any shape
        Floating-point numbers, finite. They are cut into blocks in order; the last block may be
        shorter.
    block_size : int, default 64
        Entries that share an absmax.
    double : bool, default False
        Quantize the absmax too: its mean is taken off and the rest is stored in 8 bits, with
        one float32 for 256 blocks.

    Returns
    -------
    NF4Tensor
        Four bits an entry and 32/block_size for the absmax, or 8/block_size +
        32/(256 block_size) with ``double``: 4.5 and 4.127 bits for blocks of 64.

    Raises
    ------
    ValueError
        If ``x`` is empty, not floating-point, or holds NaN or infinity, or ``block_size`` is
        below 1.

    Notes
    -----
    Each entry divided by the absmax of its block goes to the nearest level, and to the lower
    one of two at equal distance. Blocks of zeros come back as zeros.

    References
    ----------
    Dettmers et al., NeurIPS 2023, arXiv:2305.14314, section 3.

    Examples
    --------
    >>> from enough.quantization import nf4_dequantize, nf4_quantize
    >>> nf4_dequantize(nf4_quantize([-2.0, 0.0, 1.0, 2.0]))
    array([-2.       ,  0.       ,  0.8814196,  2.       ])
    """
    (values,), _ = as_tensors(x=x)
    check_tensor(values, "x", floating=True)
    block_size = check_integer(block_size, "block_size", minimum=1)
    if not isinstance(double, bool):
        raise ValueError(f"double: expected True or False, got {double!r}")
    with torch.no_grad():
        flat = values.detach().reshape(-1)
        absmax = _block_absmax(flat, block_size)
        codes = join_nibbles(_nearest_codes(flat, absmax, block_size))
        scale = mean = None
        if double:
            absmax, scale, mean = _quantize_absmax(absmax)
    return NF4Tensor(
        codes=codes,
        absmax=absmax,
        absmax_scale=scale,
        absmax_mean=mean,
        shape=values.shape,
        dtype=values.dtype,
        block_size=block_size,
        as_numpy=not isinstance(x, torch.Tensor),
    )


def nf4_dequantize(q: NF4Tensor) -> Any:
    """Return the real numbers that an NF4 tensor stands for.

    Parameters
    ----------
    q : NF4Tensor
        What `nf4_quantize` returned.

    Returns
    -------
    array of the original shape
        In the original dtype; a NumPy array if the original was one.

    Raises
    ------
    ValueError
        If ``q`` is something else.
    """
    if not isinstance(q, NF4Tensor):
        raise ValueError(f"q: expected an NF4Tensor, got {type(q).__name__}")
    absmax = q.absmax
    if q.double:
        absmax = _dequantize_absmax(absmax, q.absmax_scale, q.absmax_mean)
    entries = q.shape.numel()
    # One look-up a byte yields two levels.
    pairs = _level_pairs().to(q.codes.device)
    values = functional.embedding(q.codes.int(), pairs).flatten()[:entries]
    values = values * absmax.repeat_interleave(q.block_size)[:entries]
    limit = min(torch.finfo(q.dtype).max, torch.finfo(torch.float32).max)
    values = values.clamp(-limit, limit).to(q.dtype).reshape(q.shape)
    return values.cpu().numpy() if q.as_numpy else values


def nf4_bytes(entries: int, block_size: int = 64, double: bool = False) -> int:
    """Return the bytes that NF4 takes for a number of entries.

    Parameters
    ----------
    entries : int
        Entries of the tensor, 1 or more.
    block_size : int, default 64
        Entries in a block.
    double : bool, default False
        Whether the absmax is quantized too.

    Returns
    -------
    int
        ceil(entries/2) for the codes, and for B = ceil(entries/block_size) blocks 4B, or with
        ``double`` B + 4 ceil(B/256) + 4.

    Raises
    ------
    ValueError
        If a number is below 1.

    Examples
    --------
    >>> from enough.quantization import nf4_bytes
    >>> nf4_bytes(64), nf4_bytes(64 * 256, double=True)
    (36, 8456)
    """
    entries = check_integer(entries, "entries", minimum=1)
    block_size = check_integer(block_size, "block_size", minimum=1)
    blocks = -(-entries // block_size)
    steps = blocks + 4 * -(-blocks // DOUBLE_BLOCK) + 4 if double else 4 * blocks
    return -(-entries // 2) + steps


@functools.cache
def _normal_levels() -> torch.Tensor:
    positive = torch.linspace(_OFFSET, 0.5, 9, dtype=torch.float64)[:-1]
    negative = torch.linspace(_OFFSET, 0.5, 8, dtype=torch.float64)[:-1]
    zero = torch.zeros(1, dtype=torch.float64)
    levels = torch.cat(
        (-torch.special.ndtri(negative), zero, torch.special.ndtri(positive).flip(0))
    )
    return (levels / levels.max()).float()


@functools.cache
def _level_pairs() -> torch.Tensor:
    """Return the two levels that each byte stands for, (256, 2)."""
    codes = torch.arange(256, dtype=torch.uint8)
    return _normal_levels()[split_nibbles(codes[:, None], 2).int()]


@functools.cache
def _dynamic_levels() -> torch.Tensor:
    """Return the 256 levels of the 8-bit dynamic map: seven decades, finer toward 1 [2]_.

    Decade i of 10^(i−6) holds the 2^i midpoints of equal cuts of [0.1, 1], on both sides of
    zero; 0 and 1 complete it.
    """
    sides = []
    for decade in range(7):
        cuts = torch.linspace(0.1, 1.0, 2**decade + 1, dtype=torch.float64)
        middles = (cuts[:-1] + cuts[1:]) / 2 * 10.0 ** (decade - 6)
        sides += [middles, -middles]
    return torch.cat([*sides, torch.tensor([0.0, 1.0], dtype=torch.float64)]).sort().values.float()


def _block_absmax(flat: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return the largest absolute value of each block, the last one short, in float32."""
    full = flat.numel() // block_size * block_size
    parts = []
    if full:
        lowest, highest = torch.aminmax(flat[:full].reshape(-1, block_size), dim=1)
        parts.append(torch.maximum(highest, -lowest))
    if full < flat.numel():
        parts.append(flat[full:].abs().max().reshape(1))
    absmax = torch.cat(parts).float()
    if not bool(torch.isfinite(absmax).all()):
        raise ValueError("x: expected entries that float32 can hold, got larger ones")
    return absmax


def _nearest_codes(flat: torch.Tensor, absmax: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return the code of the nearest level for each entry, uint8, in pieces of bounded memory."""
    levels = _normal_levels().double()
    dtype = wide_dtype(flat.dtype)
    middles = ((levels[1:] + levels[:-1]) / 2).to(dtype).to(flat.device)
    safe = torch.where(absmax > 0, absmax, 1.0).to(dtype)
    codes = torch.empty(flat.shape, dtype=torch.uint8, device=flat.device)
    step = max(_CHUNK // block_size, 1) * block_size
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step].to(dtype)
        blocks = safe[start // block_size : (start + step) // block_size]
        ratio = piece / blocks.repeat_interleave(block_size)[: piece.numel()]
        codes[start : start + step] = torch.bucketize(ratio, middles).to(torch.uint8)
    return codes


def _quantize_absmax(
    absmax: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 8-bit codes, the scale of each block of 256 and the mean."""
    mean = absmax.double().mean().float().reshape(1)
    rest = absmax - mean
    scale = _block_absmax(rest, DOUBLE_BLOCK)
    safe = torch.where(scale > 0, scale, 1.0).repeat_interleave(DOUBLE_BLOCK)[: rest.numel()]
    levels = _dynamic_levels().to(absmax.device)
    codes = torch.bucketize(rest / safe, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
    return codes, scale, mean


def _dequantize_absmax(
    codes: torch.Tensor, scale: torch.Tensor, mean: torch.Tensor
) -> torch.Tensor:
    rest = _dynamic_levels().to(codes.device)[codes.int()]
    return rest * scale.repeat_interleave(DOUBLE_BLOCK)[: codes.numel()] + mean
