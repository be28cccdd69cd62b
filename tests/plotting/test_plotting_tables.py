"""The table of a figure: JSON-safe, of one shape, small."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

from enough import plotting
from enough.plotting import tables


def test_columns_of_every_kind_become_lists():
    columns = {
        "n": torch.tensor([1, 2]),
        "half": torch.tensor([0.5, 0.25], dtype=torch.bfloat16, requires_grad=True),
        "loss": np.array([1 / 3, np.nan]),
        "name": ["a", "b"],
        "ok": np.array([True, False]),
        "gap": [1.5, None],
    }
    expected = {
        "n": [1, 2],
        "half": [0.5, 0.25],
        "loss": [0.333333, None],
        "name": ["a", "b"],
        "ok": [True, False],
        "gap": [1.5, None],
    }
    assert plotting.table(columns) == expected
    assert json.loads(json.dumps(plotting.table(columns), allow_nan=False)) == expected


def test_a_data_frame_is_a_table():
    frame = pd.DataFrame({"x": [1, 2], "y": [0.1, np.inf], "z": ["u", "v"]})
    assert plotting.table(frame) == {"x": [1, 2], "y": [0.1, None], "z": ["u", "v"]}


def test_six_significant_digits_at_every_scale():
    assert plotting.table({"x": [1234567.8, 1.23456789e-20, -0.0]}) == {
        "x": [1234570.0, 1.23457e-20, -0.0]
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([1, 2], "expected a mapping of columns, got list"),
        ({}, "expected at least one column"),
        ({"": [1]}, "expected names that are non-empty strings, got ''"),
        ({3: [1]}, "expected names that are non-empty strings, got 3"),
        ({"x": [[1, 2]]}, "expected 'x' to have 1 dimension, got 2"),
        ({"x": 1.0}, "expected 'x' to have 1 dimension, got 0"),
        ({"x": [1], "y": [1, 2]}, r"expected equal lengths, got \{'x': 1, 'y': 2\}"),
        ({"x": [1j]}, "expected numbers, booleans or strings in 'x', got complex"),
        ({"x": [object()]}, "expected numbers, booleans or strings in 'x', got object"),
        ({"x": range(tables.MAX_ENTRIES + 1)}, "expected at most 20000 entries, got 20001"),
    ],
)
def test_what_is_no_table_is_refused(columns, message):
    with pytest.raises(ValueError, match=f"^columns: {message}"):
        plotting.table(columns)


def test_csv_reads_back_through_the_standard_library_and_pandas():
    columns = {"n, rows": [1, 2], "text": ['say "hi"', "two\nlines"], "gap": [0.5, np.nan]}
    text = plotting.to_csv(columns)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0] == {"n, rows": "1", "text": 'say "hi"', "gap": "0.5"}
    assert rows[1] == {"n, rows": "2", "text": "two\nlines", "gap": ""}
    frame = pd.read_csv(io.StringIO(text))
    assert frame["gap"].isna().tolist() == [False, True]
