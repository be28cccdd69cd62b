"""The named sweeps: each runs, and none that a chapter loops over is missing."""

import ast
import types
from pathlib import Path

import numpy as np
import pytest

from enough.cli.sweeps import PARTS, find_plans
from enough.runtime.recording import plain
from enough.training.sweep import Sweep

CHAPTERS = Path(__file__).resolve().parents[2] / "pyfiles" / "chapters"
PLANS = find_plans()
SMALL = {
    "overparameterization/gaussian": {"n_samples": 8, "n_modes": 20, "trials": 2},
    "overparameterization/digits": {"n_samples": 8, "n_features": 8, "trials": 2},
    "overparameterization/delay": {"n_samples": 10, "dimension": 4, "steps": 10},
    "overparameterization/modular": {"modulus": 5, "steps": 4, "record": [0, 4]},
    "overparameterization/separation": {"n_samples": 20, "dimension": 200, "seeds": 2},
    "overparameterization/sign-rip": {"trials": 2, "n_measurements": 40},
    "overparameterization/robust-steps": {
        "trials": 2, "n_rows": 6, "n_measurements": 60, "widths": [2, 6], "n_steps": 20,
        "record": [20],
    },
    "overparameterization/rescaling": {"trials": 2, "n_rows": 6, "wait": 20, "n_steps": 60},
    "overparameterization/long-tail": {"n_items": 40, "draws": 2},
    "overparameterization/suppression": {"draws": 1, "epochs": 2, "width": 8},
    "overparameterization/parity": {"draws": 2},
    "calibration/floor": {"trials": 3},
    "calibration/smooth": {"trials": 2},
    "calibration/networks": {"members": 2, "steps": 3},
    "calibration/coverage": {"datasets": 2, "resamples": 5, "n_samples": 100},
    "calibration/overlap-line": {"draws": 2},
    "calibration/overlap-gaussian": {
        "repeats": 1, "n_samples": 40, "n_test": 20, "dimension": 5, "width": 8, "epochs": 1,
        "batch_size": 10,
    },
    "rewards/best-of-n": {
        "worlds": 1, "members": 1, "pool": 128, "counts": [1, 4], "n_pairs": 100,
    },
    "rewards/herding": {
        "worlds": 1, "members": 2, "size": 2, "pool": 128, "counts": [1, 4], "n_pairs": 100,
        "steps": 5,
    },
    "quantization/rounding": {"trials": 2, "samples": 100},
    "quantization/lattice": {"trials": 2, "samples": 100},
    "quantization/clipping": {"trials": 2, "samples": 100},
    "quantization/rows": {"trials": 2, "rows": 2, "columns": 32},
    "quantization/ranges": {"members": 1, "epochs": 1},
    "quantization/layerwise": {"members": 1, "epochs": 1, "images": 20},
    "quantization/adapters": {"width": 16, "members": 1, "steps": 3},
    "scaling/bytes": {"width": 4, "steps": 3, "batch": 8, "members": 2, "evaluation": 20},
    "scaling/sources": {"symbols": 8, "steps": 3, "members": 2},
    "scaling/neighbors": {"samples": [8, 16], "trials": 2},
    "scaling/bootstrap-coverage": {"replicas": 3},
    "scaling/translation": {},
    "scaling/two-sided": {},
}  # fmt: skip
"""Arguments that make a point of each sweep small."""

NOT_SWEPT = {
    "gradient_flow_point": "takes a pool of scored answers, not numbers",
    "kernel_point": "takes a kernel matrix, not numbers",
    "shuffled_point": "takes a table, not numbers",
    "subset_point": "returns an estimate with methods, not numbers",
}
"""Points that a chapter loops over and no sweep computes, with the reason."""


def leaves(value):
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key])]
    if isinstance(value, list):
        return [leaf for one in value for leaf in leaves(one)]
    return [value]


@pytest.mark.parametrize("name", PLANS)
def test_a_point_of_each_sweep_runs_and_can_be_kept(name):
    plan = PLANS[name]
    point = plan.sweep(preset="cpu").pending()[0]
    assert set(SMALL[name]) & set(point) or not SMALL[name]
    point |= SMALL[name]
    sweep = Sweep(plan.function, [point]).run()
    (row,) = sweep.table().drop(columns="seconds").to_dict("records")
    expected = point | plain(plan.function(**point), "results")
    assert row.keys() == expected.keys()
    for key, value in expected.items():
        found, wanted = leaves(row[key]), leaves(value)
        if wanted and isinstance(wanted[0], str):
            assert found == wanted
        else:  # a solver's last digits depend on where its arrays lie in memory
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("preset", ["gpu", "full"])
def test_points_of_larger_presets_fit_the_function(name, preset):
    sweep = PLANS[name].sweep(preset=preset, device="cuda")
    assert set(sweep.pending()[0]) == set(PLANS[name].sweep(preset="cpu").pending()[0])


LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def looped(text):
    """Name the points that a chapter's code calls within a loop."""
    calls = (
        node.func
        for loop in ast.walk(ast.parse(text))
        if isinstance(loop, LOOPS)
        for node in ast.walk(loop)
        if isinstance(node, ast.Call)
    )
    names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
    return {name for name in names if name.endswith("_point")}


def used(code):
    """Name a function, what it uses, and what its comprehensions use."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return {code.co_name, *code.co_names, *(name for c in inner for name in used(c))}


def test_loops_are_found():
    text = "a_point()\n[x.b_point(i) for i in y]\nfor i in y:\n    z = c_point(i)\n"
    assert looped(text) == {"b_point", "c_point"}


def test_what_chapters_loop_over_is_in_a_sweep_or_has_a_reason():
    missing, found = [], set()
    for part in PARTS:
        functions = [plan.function for name, plan in PLANS.items() if name.startswith(f"{part}/")]
        swept = {name for function in functions for name in used(function.__code__)}
        for path in sorted((CHAPTERS / part).glob("*.py")):
            here = looped(path.read_text(encoding="utf-8"))
            found |= here
            missing += [f"{part}/{path.stem}: {name}" for name in here - swept - set(NOT_SWEPT)]
    assert not missing
    assert len(found) >= 15
    assert set(NOT_SWEPT) <= found, "a reason for a point that no chapter loops over"
