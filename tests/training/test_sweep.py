"""Sweeps in one process: grids, results, failures, interrupts, stores."""

import functools
import itertools
import json
import math
import sqlite3
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

from enough.training.sweep import Progress, Sweep, SweepError, SweepStoreError


def product(a, b=10):
    return {"product": a * b, "total": a + b}


def fragile(x, broken=()):
    if x in broken:
        raise ArithmeticError(f"no value at {x}")
    return {"y": x}


def recorder(fail=()):
    """Make a function of one argument that remembers its calls and fails where told."""

    def square(x):
        square.calls.append(x)
        if x in square.fail:
            raise ArithmeticError(f"no value at {x}")
        return {"y": x * x}

    square.calls, square.fail = [], set(fail)
    return square


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "sweep.sqlite"


@pytest.fixture(params=["here", "threads"])
def executor(request):
    if request.param == "here":
        yield None
    else:
        with ThreadPoolExecutor(3) as threads:
            yield threads


def test_grid_is_the_product_in_order_the_last_name_fastest(store, executor):
    sweep = Sweep(product, {"b": [1, 2], "a": range(3)}, store)
    table = sweep.run(executor).table()
    expected = pd.DataFrame(
        [(b, a, a * b, a + b) for b, a in itertools.product([1, 2], range(3))],
        columns=["b", "a", "product", "total"],
    )
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), expected)
    assert (table["seconds"] >= 0).all()
    assert len(sweep) == 6


def test_explicit_points_keep_their_order_and_leave_gaps_where_a_name_is_absent():
    table = Sweep(product, [{"a": 5}, {"a": 3, "b": 2}, {"a": 4}]).run().table()
    assert list(table.columns) == ["a", "b", "product", "total", "seconds"]
    assert table["a"].tolist() == [5, 3, 4]
    assert table["product"].tolist() == [50, 6, 40]
    assert table["b"].isna().tolist() == [True, False, True]


def everything(x):
    return {
        "tenth": 0.1 + 0.2,
        "tiny": 5e-324,
        "minus_zero": -0.0,
        "nan": math.nan,
        "infinite": -math.inf,
        "huge": 10**30,
        "single": np.float32(0.1),
        "half": torch.tensor(0.1, dtype=torch.bfloat16),
        "array": np.array([[1.5, np.nan], [np.inf, 2.0]]),
        "tensor": torch.tensor([1, 2], requires_grad=False),
        "learned": torch.tensor([0.5], requires_grad=True),
        "true": np.bool_(True),
        "integer": np.int64(2**62),
        "word": "café \ud800 \x00 '",
        "nothing": None,
        "nested": {"a": (1, [2.0, {"b": "c"}])},
    }


def test_results_come_back_exactly(tmp_path):
    path = tmp_path / "s.sqlite"
    Sweep(everything, {"x": [0]}, path).run()
    table = Sweep(everything, {"x": [0]}, path).table()
    assert list(table.columns) == ["x", *everything(0), "seconds"]
    row = table.iloc[0]
    assert row["tenth"] == 0.1 + 0.2
    assert row["tiny"] == 5e-324
    assert math.copysign(1, row["minus_zero"]) == -1
    assert math.isnan(row["nan"])
    assert row["infinite"] == -math.inf
    assert row["huge"] == 10**30
    assert row["single"] == float(np.float32(0.1)) != 0.1
    assert row["half"] == 0.10009765625  # 0.1 rounded to 8 significant bits
    assert str(row["array"]) == "[[1.5, nan], [inf, 2.0]]"
    assert row["tensor"] == [1, 2]
    assert row["learned"] == [0.5]
    assert row["true"] is np.True_
    assert row["integer"] == 2**62
    assert row["word"] == "café \ud800 \x00 '"
    assert row["nothing"] is None
    assert row["nested"] == {"a": [1, [2.0, {"b": "c"}]]}


def test_random_bit_patterns_of_floats_round_trip(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64).view(float)

    def draw(x):
        return {"values": values}

    Sweep(draw, {"x": [0]}, tmp_path / "s.sqlite").run()
    back = np.array(Sweep(draw, {"x": [0]}, tmp_path / "s.sqlite").table()["values"][0])
    np.testing.assert_array_equal(back, values)


def test_the_function_receives_plain_values():
    seen = {}

    def look(**arguments):
        seen.update(arguments)
        return {}

    grid = {
        "width": np.arange(1, 2),
        "rate": torch.tensor([0.5]),
        "shape": [(2, 3)],
        "flag": [np.bool_(False)],
        "name": ["relu"],
        "nothing": [None],
    }
    Sweep(look, grid).run()
    assert seen == {
        "width": 1,
        "rate": 0.5,
        "shape": [2, 3],
        "flag": False,
        "name": "relu",
        "nothing": None,
    }
    types = [type(seen[name]) for name in grid]
    assert types == [int, float, list, bool, str, type(None)]


def test_a_finished_point_is_never_computed_again(store, executor):
    function = recorder()
    sweep = Sweep(function, {"x": range(5)}, store)
    sweep.run(executor)
    sweep.run(executor)
    assert sorted(function.calls) == list(range(5))


def test_a_larger_grid_reuses_the_store_of_a_smaller_one(tmp_path):
    function = recorder()
    Sweep(function, {"x": [0, 2]}, tmp_path / "s").run()
    sweep = Sweep(function, {"x": [2, 1, 0]}, tmp_path / "s")
    assert sweep.pending() == [{"x": 1}]
    assert sweep.progress() == Progress(done=2, failed=0, total=3)
    assert sweep.run().table()["x"].tolist() == [2, 1, 0]
    assert function.calls == [0, 2, 1]


def test_arguments_that_json_tells_apart_are_different_points():
    assert Sweep(fragile, {"x": [1, 1.0, True]}).run().progress().done == 3


def test_a_failed_point_lets_the_others_go_on_and_is_tried_again(store, executor):
    function = recorder(fail=[1, 3])
    sweep = Sweep(function, {"x": range(5)}, store)
    with pytest.raises(SweepError, match=r"2 of 5 points of .*square failed") as caught:
        sweep.run(executor)
    assert [f.arguments for f in caught.value.failed] == [{"x": 1}, {"x": 3}]
    assert "square(x=1): ArithmeticError: no value at 1" in str(caught.value)
    assert "square(x=3): ArithmeticError: no value at 3" in str(caught.value)
    assert "raise ArithmeticError" in caught.value.failed[0].traceback
    assert sweep.table()["x"].tolist() == [0, 2, 4]
    assert sweep.progress() == Progress(done=3, failed=2, total=5)
    assert sweep.pending() == [{"x": 1}, {"x": 3}]
    failed = sweep.failed()
    assert failed["arguments"].tolist() == [{"x": 1}, {"x": 3}]
    assert failed["error"][1] == "ArithmeticError: no value at 3"
    assert "raise ArithmeticError" in failed["traceback"][1]

    function.fail.clear()
    sweep.run(executor)
    assert sorted(function.calls) == [0, 1, 1, 2, 3, 3, 4]
    assert sweep.table()["y"].tolist() == [0, 1, 4, 9, 16]
    assert sweep.failed().empty
    assert sweep.pending() == []


def test_failures_can_be_recorded_in_silence():
    function = recorder(fail=[1])
    sweep = Sweep(function, {"x": range(2)})
    assert sweep.run(on_error="record") is sweep
    assert sweep.failed()["arguments"].tolist() == [{"x": 1}]
    sweep.run(on_error="record")
    assert function.calls == [0, 1, 1]


def test_the_message_names_ten_failures_at_most():
    with pytest.raises(SweepError, match=r"x=9.*\n  and 15 more") as caught:
        Sweep(recorder(fail=range(25)), {"x": range(25)}).run()
    assert len(caught.value.failed) == 25


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (7, "expected the function to return a dict, got int"),
        ({"when": {1, 2}}, r"results\['when'\]: expected numbers.* got set"),
        ({"z": [1j]}, r"results\['z'\]\[0\]: expected numbers.* got complex"),
        ({3: 1}, "expected names that are strings, got 3"),
        ({"day": np.datetime64("2020-01-01")}, "got date"),
        ({"seconds": 1}, "'seconds' is taken"),
        ({"x": 2}, "'x' is an argument, but its value differs"),
    ],
)
def test_results_that_cannot_be_kept_fail_by_name(results, message):
    def returns(x):
        return results

    with pytest.raises(SweepError, match=message):
        Sweep(returns, {"x": [1]}).run()


def test_results_may_repeat_an_argument():
    def echo(x):
        return {"x": np.int64(x), "y": 1}

    assert list(Sweep(echo, {"x": [1]}).run().table().columns) == ["x", "y", "seconds"]


def test_a_function_that_changes_its_arguments_does_not_change_the_table():
    def greedy(items):
        items.append(3)
        return {"n": len(items)}

    table = Sweep(greedy, {"items": [[1, 2]]}).run().table()
    assert table["items"][0] == [1, 2]
    assert table["n"][0] == 3


def test_an_empty_table_has_the_grid_s_columns():
    table = Sweep(product, {"a": [1], "b": [2]}).table()
    assert list(table.columns) == ["a", "b", "seconds"]
    assert table.empty


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "at least one name"),
        ([], "at least one point"),
        ({"a": []}, r"grid\['a'\]: expected at least one value"),
        ({"a": "relu"}, r"grid\['a'\]: expected a list of values, got 'relu'"),
        ({"a": 3}, r"grid\['a'\]: expected a list of values, got 3"),
        ({"a": np.array(3)}, r"grid\['a'\]: expected a list of values"),
        ({"a": torch.tensor(3)}, r"grid\['a'\]: expected a list of values"),
        ({"a": [1, 1]}, r'expected each point once, got \{"a":1\} twice'),
        ({"a": [(1, 2), [1, 2]]}, "twice"),
        ({"a": [1], "c": [1]}, r"product cannot be called with .*unexpected keyword argument 'c'"),
        ({"b": [1]}, "missing a required argument: 'a'"),
        ([{"a": 1}, 2], "expected dicts, got int at place 1"),
        ("grid", "expected a mapping .* got str"),
        (None, "expected a mapping .* got NoneType"),
        ({"a": [object()]}, r"grid point 0\['a'\]: expected numbers"),
        ({1: [1]}, "expected names that are strings, got 1"),
    ],
)
def test_wrong_grids_are_refused_by_name(grid, message):
    with pytest.raises(ValueError, match=message):
        Sweep(product, grid)


def test_the_name_seconds_is_the_sweep_s_own():
    def f(seconds):
        return {}

    with pytest.raises(ValueError, match="'seconds' is taken"):
        Sweep(f, {"seconds": [1]})


def test_other_wrong_arguments_are_refused_by_name(tmp_path):
    grid = {"a": [1]}
    with pytest.raises(ValueError, match="function: expected a callable, got int"):
        Sweep(3, grid)
    with pytest.raises(ValueError, match="function: expected a named function, got partial"):
        Sweep(functools.partial(product, b=2), grid)
    with pytest.raises(ValueError, match="version: expected a string"):
        Sweep(product, grid, version=2)
    with pytest.raises(ValueError, match="store: expected a path or None, got int"):
        Sweep(product, grid, 3)
    with pytest.raises(ValueError, match="lease: expected a number > 0"):
        Sweep(product, grid, lease=0)
    with pytest.raises(ValueError, match=r"executor: expected a concurrent\.futures\.Executor"):
        Sweep(product, grid).run(4)
    with pytest.raises(ValueError, match="on_error: expected one of 'raise', 'record'"):
        Sweep(product, grid).run(on_error="ignore")
    with pytest.raises(ValueError, match="in_flight: expected a number >= 1"):
        Sweep(product, grid).run(in_flight=0)


def test_a_store_of_another_function_or_version_is_refused(tmp_path):
    path = tmp_path / "s.sqlite"
    Sweep(product, {"a": [1]}, path, version="2").run()
    before = path.read_bytes()
    with pytest.raises(
        SweepStoreError, match=r"belongs to the sweep of '.*product', version '2', .*fragile"
    ):
        Sweep(fragile, {"x": [1]}, path, version="2")
    with pytest.raises(SweepStoreError, match=r"version '2', not to that of .*version '1'"):
        Sweep(product, {"a": [1]}, path)
    assert path.read_bytes() == before
    assert Sweep(product, {"a": [1]}, path, version="2").table()["product"].tolist() == [10]


def test_two_lambdas_do_not_share_a_store(tmp_path):
    first = lambda x: {"y": 1}  # noqa: E731
    second = lambda x: {"y": 2}  # noqa: E731
    Sweep(first, {"x": [0]}, tmp_path / "s").run()
    with pytest.raises(SweepStoreError, match="belongs to the sweep of"):
        Sweep(second, {"x": [0]}, tmp_path / "s")


@pytest.mark.parametrize("kind", ["here", "threads"])
def test_an_interrupt_keeps_what_is_finished_and_cancels_the_rest(tmp_path, kind):
    calls = []

    def interrupted(x):
        calls.append(x)
        if x == 5:
            raise KeyboardInterrupt
        time.sleep(0.05 if x > 5 else 0)
        return {"y": x}

    sweep = Sweep(interrupted, {"x": range(30)}, tmp_path / "s")
    threads = ThreadPoolExecutor(1) if kind == "threads" else None
    with pytest.raises(KeyboardInterrupt):
        sweep.run(threads, in_flight=20)
    if threads:
        threads.shutdown()
    # The thread begins more of the 20 points until the interrupt arrives here.
    assert len(calls) < 20
    assert sweep.progress().failed == 0
    done = sweep.table()["x"].tolist()
    assert done[:5] == [0, 1, 2, 3, 4]
    assert 5 not in done
    with sqlite3.connect(tmp_path / "s") as connection:
        assert connection.execute("SELECT * FROM claims").fetchall() == []
        assert connection.execute("SELECT * FROM owners").fetchall() == []


def test_a_result_that_waits_to_be_written_survives_an_interrupt(tmp_path):
    class Both(Executor):
        """Brings an interrupt for point 0 and a result for point 1 at the same time."""

        def submit(self, function, /, *arguments):
            future = Future()
            if json.loads(arguments[1]) == {"x": 0}:
                future.set_exception(KeyboardInterrupt())
            else:
                future.set_result(function(*arguments))
            return future

    sweep = Sweep(fragile, {"x": [0, 1]}, tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        sweep.run(Both(), in_flight=2)
    assert sweep.table()["x"].tolist() == [1]


def test_points_in_flight_are_bounded():
    lock, now, most = threading.Lock(), [0], [0]

    def slow(x):
        time.sleep(0.002)
        return {}

    class Counting(ThreadPoolExecutor):
        def submit(self, *arguments):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            future = super().submit(*arguments)
            future.add_done_callback(lambda _: self.leave())
            return future

        def leave(self):
            with lock:
                now[0] -= 1

    with Counting(2) as threads:
        Sweep(slow, {"x": range(50)}).run(threads)
        assert most[0] == 4
        most[0] = 0
        Sweep(slow, {"x": range(50)}).run(threads, in_flight=7)
        assert most[0] == 7


def test_a_broken_executor_is_reported_and_loses_nothing_finished(tmp_path):
    class Breaking(Executor):
        """Computes three points, then breaks as a process pool does."""

        calls = 0

        def submit(self, function, /, *arguments):
            self.calls += 1
            future = Future()
            if self.calls <= 3:
                future.set_result(function(*arguments))
            elif self.calls == 4:
                future.set_exception(BrokenExecutor("a worker died"))
            else:
                raise BrokenExecutor("not usable")
            return future

    sweep = Sweep(fragile, {"x": range(8)}, tmp_path / "s")
    with pytest.raises(SweepError, match=r"the executor broke .*a worker died") as caught:
        sweep.run(Breaking(), in_flight=1, on_error="record")
    assert caught.value.failed == []
    assert sweep.progress() == Progress(done=3, failed=0, total=8)
    with pytest.raises(SweepError, match="not usable"):
        sweep.run(Breaking(), in_flight=8)
    assert sweep.progress() == Progress(done=6, failed=0, total=8)
    assert sweep.run().progress().done == 8


def test_what_the_executor_says_of_one_point_is_that_point_s_failure():
    class Refusing(Executor):
        def submit(self, function, /, *arguments):
            future = Future()
            if json.loads(arguments[1]) == {"x": 1}:
                future.set_exception(TypeError("cannot be sent"))
            else:
                future.set_result(function(*arguments))
            return future

    with pytest.raises(SweepError, match=r"fragile\(x=1\): TypeError: cannot be sent"):
        Sweep(fragile, {"x": range(3)}).run(Refusing())


def test_the_bar_is_silent_off_the_terminal(capsys):
    Sweep(fragile, {"x": range(3)}).run()
    assert capsys.readouterr() == ("", "")


def test_the_store_holds_text_and_numbers_only(tmp_path):
    path = tmp_path / "s"
    Sweep(recorder(fail=[1]), {"x": range(3)}, path).run(on_error="record")
    with sqlite3.connect(path) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master").fetchall():
            for row in connection.execute(f"SELECT * FROM {table}"):
                assert all(v is None or isinstance(v, str | int | float) for v in row)
        for key, result in connection.execute("SELECT key, result FROM points"):
            json.loads(key)
            assert result is None or set(json.loads(result)) == {"y"}


def test_a_path_with_odd_characters_works_and_leaves_one_file(tmp_path):
    path = tmp_path / "a b?c#d%20.sqlite"
    Sweep(fragile, {"x": range(3)}, str(path)).run()
    assert [p.name for p in tmp_path.iterdir()] == ["a b?c#d%20.sqlite"]
    assert Sweep(fragile, {"x": range(3)}, path).progress().done == 3
