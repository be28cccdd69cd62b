"""Checks at the public edge: what passes, and what the messages say."""

import math

import numpy as np
import pytest
import torch

from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)


def test_numpy_goes_back_as_numpy_and_tensors_as_tensors():
    (a, b), restore = as_tensors(a=np.arange(3.0), b=[1, 2, 3])
    assert a.dtype == torch.float64
    assert b.dtype == torch.int64
    assert isinstance(restore(a + b), np.ndarray)
    (_, c), restore = as_tensors(a=np.arange(3.0), c=torch.ones(3, dtype=torch.float16))
    assert c.dtype == torch.float16
    assert isinstance(restore(c), torch.Tensor)


def test_arrays_that_cannot_be_written_are_copied_without_a_warning():
    array = np.arange(3.0)
    array.flags.writeable = False
    (tensor,), _ = as_tensors(a=array)
    tensor += 1
    assert array.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("value", ["text", [1, "a"], [[1], [1, 2]], object(), None])
def test_what_is_no_array_of_numbers_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^logits: expected a tensor or an array of numbers"):
        as_tensors(logits=value)


def test_several_devices_are_refused():
    with pytest.raises(ValueError, match=r"^a, b: expected all on one device, got cpu, meta"):
        as_tensors(a=torch.ones(2), b=torch.ones(2, device="meta"))


@pytest.mark.parametrize(
    ("value", "conditions", "message"),
    [
        (torch.ones(2, 3), {"ndim": 1}, r"expected 1 dimension\(s\), got shape \(2, 3\)"),
        (torch.ones(2), {"ndim": (2, 3)}, r"expected 2 or 3 dimension\(s\)"),
        (torch.ones(2, 3), {"shape": (None, 4)}, r"expected shape \(any, 4\), got \(2, 3\)"),
        (torch.ones(0), {}, r"expected at least one entry"),
        (torch.ones(2, dtype=torch.int64), {"floating": True}, r"expected a floating-point"),
        (
            torch.tensor([1.0, math.nan, math.inf]),
            {},
            r"expected finite numbers, got 2 NaN or infinite",
        ),
        (torch.tensor([-1.0, 1.0]), {"minimum": 0}, r"expected entries >= 0, got -1"),
        (torch.tensor([-1.0, 2.0]), {"maximum": 1}, r"expected entries <= 1, got 2"),
    ],
)
def test_each_tensor_check_names_the_argument(value, conditions, message):
    with pytest.raises(ValueError, match=f"^probs: {message}"):
        check_tensor(value, "probs", **conditions)


def test_a_tensor_that_fits_comes_back_itself():
    value = torch.tensor([[0.0, 1.0]])
    passed = check_tensor(value, "x", ndim=2, shape=(1, None), floating=True, minimum=0, maximum=1)
    assert passed is value
    assert check_tensor(torch.ones(0), "x", nonempty=False).numel() == 0
    assert check_tensor(torch.tensor([math.inf]), "x", finite=False).isinf().all()


@pytest.mark.parametrize("value", [3, 3.0, np.int32(3), np.float64(3)])
def test_whole_numbers_become_int(value):
    assert check_integer(value, "n") == 3
    assert type(check_integer(value, "n")) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), 2.5, "3", None, math.nan, math.inf])
def test_what_is_not_whole_is_refused(value):
    with pytest.raises(ValueError, match=r"^n: expected a whole number, got"):
        check_integer(value, "n")


def test_integer_ranges_are_inclusive():
    assert check_integer(2, "n", minimum=2, maximum=2) == 2
    with pytest.raises(ValueError, match=r"^n: expected a number >= 2, got 1"):
        check_integer(1, "n", minimum=2)
    with pytest.raises(ValueError, match=r"^n: expected a number <= 2, got 3"):
        check_integer(3, "n", maximum=2)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.array([0.5])[0]])
def test_numbers_become_float(value):
    assert check_number(value, "x", above=0, maximum=0.5) == 0.5
    assert type(check_number(value, "x")) is float


@pytest.mark.parametrize(
    ("value", "conditions", "message"),
    [
        ("0.5", {}, "expected a number, got '0.5'"),
        (True, {}, "expected a number, got True"),
        (torch.ones(2), {}, "expected a number"),
        (math.nan, {"finite": False}, "expected a finite number, got nan"),
        (math.inf, {}, "expected a finite number, got inf"),
        (0, {"above": 0}, "expected a number > 0, got 0.0"),
        (1, {"below": 1}, "expected a number < 1, got 1.0"),
        (-1, {"minimum": 0}, "expected a number >= 0, got -1.0"),
        (2, {"maximum": 1}, "expected a number <= 1, got 2.0"),
    ],
)
def test_numbers_out_of_range_are_refused(value, conditions, message):
    with pytest.raises(ValueError, match=f"^x: {message}"):
        check_number(value, "x", **conditions)
    assert check_number(math.inf, "x", finite=False) == math.inf


def test_choices():
    assert check_choice("b", "how", iter("abc")) == "b"
    with pytest.raises(ValueError, match=r"^how: expected one of 'a', 'b', got 'c'"):
        check_choice("c", "how", ["a", "b"])
