"""Checks of exercises: right answers pass in silence, wrong ones get a hint and no answer."""

import importlib
from pathlib import Path

import pytest
import torch

from enough.book import exercises

ROOT = Path(__file__).resolve().parents[2]

PREFIX = "overparameterization/random_features/"


def _loo_by_refitting(features, y, ridge):
    errors = []
    for i in range(len(y)):
        keep = [j for j in range(len(y)) if j != i]
        gram = features[keep].T @ features[keep] + ridge * torch.eye(features.shape[1])
        weights = torch.linalg.solve(gram.double(), features[keep].T @ y[keep])
        errors.append(y[i] - features[i] @ weights)
    return torch.stack(errors)


def _loo_without_leverages(features, y, ridge):
    gram = features @ features.T
    return y - gram @ torch.linalg.solve(gram + ridge * torch.eye(len(y)).double(), y)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("modes", 128.0, 256.0),
        ("loo", _loo_by_refitting, _loo_without_leverages),
        ("threshold", 2 / 3, 0.5),
    ],
)
def test_right_answers_pass_and_wrong_ones_get_a_hint(name, right, wrong, capsys):
    assert exercises.check(PREFIX + name, right) is None
    assert capsys.readouterr().out == ""
    with pytest.raises(AssertionError, match=r"^not yet\. Hint: "):
        exercises.check(PREFIX + name, wrong)


def test_an_answer_that_breaks_is_wrong_and_says_how():
    with pytest.raises(AssertionError, match=r"not yet \(TypeError: .*Hint: "):
        exercises.check(PREFIX + "loo", 3)


@pytest.mark.parametrize("name", ["modes", PREFIX + "none", "a/b/c", "overparameterization/none/x"])
def test_an_unknown_exercise_is_named(name):
    with pytest.raises(ValueError, match=r"name|chapter"):
        exercises.check(name, 1)


def test_every_chapter_with_checks_calls_each_of_them():
    checks = ROOT / "pyfiles" / "enough" / "book" / "checks"
    modules = [p for p in checks.glob("*/*.py") if p.stem != "__init__"]
    assert modules
    for path in modules:
        chapter = path.relative_to(checks).with_suffix("").as_posix()
        module = importlib.import_module(f"enough.book.checks.{chapter.replace('/', '.')}")
        text = (ROOT / "pyfiles" / "chapters" / f"{chapter}.py").read_text(encoding="utf-8")
        assert [name for name in module.CHECKS if f'"{chapter}/{name}", ' not in text] == []
