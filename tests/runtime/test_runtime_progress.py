"""The progress bar shows to people and never to files."""

import io
import sys
from types import SimpleNamespace

import pytest

from enough import runtime


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _outside_notebooks(monkeypatch):
    monkeypatch.delenv("ENOUGH_QUIET", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)


def written(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(runtime.progress(range(3), label="models")) == [0, 1, 2]
    return stream.getvalue()


def inside_notebook(monkeypatch, allow_stdin):
    kernel = SimpleNamespace(get_parent=lambda channel: {"content": {"allow_stdin": allow_stdin}})
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setitem(sys.modules, "IPython", ipython)


def test_a_terminal_sees_the_bar_and_its_label(monkeypatch):
    text = written(monkeypatch, Terminal())
    assert "models" in text
    assert "/3" in text


def test_captured_output_stays_empty(monkeypatch):
    assert written(monkeypatch, io.StringIO()) == ""


@pytest.mark.parametrize(
    ("value", "silent"), [("1", True), ("yes", True), ("0", False), ("", False)]
)
def test_the_variable_silences_even_a_terminal(monkeypatch, value, silent):
    monkeypatch.setenv("ENOUGH_QUIET", value)
    assert (written(monkeypatch, Terminal()) == "") is silent


def test_a_notebook_with_a_person_sees_the_bar(monkeypatch):
    inside_notebook(monkeypatch, allow_stdin=True)
    assert "models" in written(monkeypatch, io.StringIO())


def test_a_notebook_executed_by_a_program_does_not(monkeypatch):
    inside_notebook(monkeypatch, allow_stdin=False)
    assert written(monkeypatch, Terminal()) == ""


def test_a_kernel_that_cannot_tell_is_silent(monkeypatch):
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert written(monkeypatch, Terminal()) == ""


def test_a_process_without_stderr_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(runtime.progress(range(2))) == [0, 1]


def test_total_and_updates_by_hand(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with runtime.progress(total=4, label="steps") as bar:
        bar.update(3)
        assert (bar.n, bar.total) == (3, 4)
    assert list(runtime.progress((i for i in range(2)), total=2)) == [0, 1]


def test_a_bad_total_is_refused():
    with pytest.raises(ValueError, match=r"^total: expected a number >= 0, got -3"):
        runtime.progress(range(2), total=-3)
