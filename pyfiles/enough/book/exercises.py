"""Checks that stand under the book's exercises: a hint on failure, never the answer."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Exercise", "check", "checks_of"]


@dataclass(frozen=True)
class Exercise:
    """How an answer is tested, and what a reader is told when it is wrong.

    Attributes
    ----------
    test : callable
        Takes the answer and returns whether it is right. An exception counts as wrong.
    hint : str
        Where to look, not what to write.
    """

    test: Callable[[Any], bool]
    hint: str


def checks_of(chapter: str) -> Mapping[str, Exercise]:
    """Return the checks of a chapter by exercise.

    Parameters
    ----------
    chapter : str
        ``"<part>/<chapter>"``.

    Returns
    -------
    mapping
        From the exercise's name to its check.

    Raises
    ------
    ValueError
        If the chapter has no checks.
    """
    module = f"enough.book.checks.{chapter.replace('/', '.')}"
    try:
        return importlib.import_module(module).CHECKS
    except ModuleNotFoundError as error:
        if not module.startswith(str(error.name)):
            raise
        raise ValueError(f"chapter: expected a chapter with exercises, got {chapter!r}") from error


def check(name: str, answer: Any) -> None:
    """Check an answer to an exercise; silence means that it is right.

    Parameters
    ----------
    name : str
        ``"<part>/<chapter>/<exercise>"``, as the exercise's text gives it.
    answer : object
        The reader's answer: a number, an array or a function, as the exercise asks.

    Raises
    ------
    ValueError
        If there is no such exercise.
    AssertionError
        If the answer is not right; the message holds a hint.
    """
    chapter, _, exercise = str(name).rpartition("/")
    if chapter.count("/") != 1:
        raise ValueError(f"name: expected '<part>/<chapter>/<exercise>', got {name!r}")
    checks = checks_of(chapter)
    if exercise not in checks:
        raise ValueError(f"name: expected one of {', '.join(sorted(checks))}, got {exercise!r}")
    hint = checks[exercise].hint
    try:
        right = bool(checks[exercise].test(_without_nan(answer)))
    except Exception as error:
        raise AssertionError(f"not yet ({type(error).__name__}: {error}). Hint: {hint}") from error
    if not right:
        raise AssertionError(f"not yet. Hint: {hint}")


def _without_nan(answer: Any) -> Any:
    """A function that is right nowhere must not pass because no comparison with nan is true."""
    if not callable(answer):
        return answer

    @functools.wraps(answer)
    def called(*given: Any, **named: Any) -> Any:
        value = answer(*given, **named)
        if getattr(value, "ndim", 0) == 0 and value != value:
            raise ValueError("the function returned nan")
        return value

    return called
