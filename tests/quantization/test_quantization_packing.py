"""Four-bit packing, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enough.quantization import choose_qparams, pack_int4, quantize, unpack_int4


@pytest.mark.parametrize("n", [1, 2, 3, 16, 33])
@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(torch.int8, -8, 7), (torch.uint8, 0, 15), (torch.int32, 0, 15), (torch.int64, -8, 7)],
)
def test_round_trip(n, dtype, low, high):
    generator = torch.Generator().manual_seed(n)
    q = torch.randint(low, high + 1, (3, 2, n), generator=generator).to(dtype)
    packed = pack_int4(q)
    assert packed.shape == (3, 2, -(-n // 2))
    assert packed.element_size() == 1
    assert torch.equal(unpack_int4(packed, n).to(dtype), q)


def test_every_pair_of_codes_is_a_byte():
    first, second = np.divmod(np.arange(256), 16)
    packed = pack_int4(np.stack([first, second], axis=1).astype(np.uint8))
    assert packed.dtype == np.uint8
    assert packed[:, 0].tolist() == (second * 16 + first).tolist()
    back = unpack_int4(packed, 2)
    assert back[:, 0].tolist() == first.tolist()
    assert back[:, 1].tolist() == second.tolist()


def test_signed_codes_are_twos_complement():
    packed = pack_int4(torch.tensor([-8, 7, -1], dtype=torch.int8))
    assert packed.dtype == torch.int8
    assert packed.view(torch.uint8).tolist() == [0x78, 0x0F]
    assert unpack_int4(packed, 3).tolist() == [-8, 7, -1]
    assert unpack_int4(packed.view(torch.uint8), 3).tolist() == [8, 7, 15]


def test_strides_do_not_matter():
    q = torch.arange(12, dtype=torch.int8).reshape(4, 3).t()
    assert torch.equal(pack_int4(q), pack_int4(q.contiguous()))
    packed = pack_int4(q).t().contiguous().t()
    assert torch.equal(unpack_int4(packed, 4), q.to(torch.uint8))


@pytest.mark.parametrize("symmetric", [True, False])
def test_quantized_tensors_survive(symmetric):
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(1))
    scale, zero = choose_qparams(x, bits=4, symmetric=symmetric, axis=0)
    q = quantize(x, scale, zero, bits=4, symmetric=symmetric, axis=0)
    assert torch.equal(unpack_int4(pack_int4(q), 9).int(), q)


@pytest.mark.parametrize(
    ("q", "message"),
    [
        ([16], "q: expected entries in -8 … 7 or in 0 … 15, got 16 … 16"),
        ([-9, 0], "got -9 … 0"),
        ([-1, 8], "got -1 … 8"),
        ([0.0], "q: expected an integer dtype"),
        ([True], "q: expected an integer dtype"),
        (np.zeros((2, 0), dtype=int), "q: expected at least one entry"),
        (np.int8(3), "q: expected at least one dimension"),
    ],
)
def test_wrong_codes_are_named(q, message):
    with pytest.raises(ValueError, match=message):
        pack_int4(q)


@pytest.mark.parametrize(
    ("packed", "n", "message"),
    [
        (torch.zeros(2, dtype=torch.int32), 4, "packed: expected int8 or uint8"),
        (torch.zeros(2, dtype=torch.int8), 5, "packed: expected a last axis of 3 bytes"),
        (torch.zeros(2, dtype=torch.int8), 0, "n: expected a number >= 1"),
    ],
)
def test_wrong_bytes_are_named(packed, n, message):
    with pytest.raises(ValueError, match=message):
        unpack_int4(packed, n)
