"""Checks of the chapter on ensembles of reward models."""

import numpy as np

from enough.book.exercises import Exercise
from enough.rewards import aggregate_rewards

__all__ = ["CHECKS"]


def _floor(answer: float) -> bool:
    return abs(float(answer) - 0.6) < 1e-3


def _coefficient(answer: float) -> bool:
    return abs(float(answer) - 1 / 9.2) < 1e-3


def _order(function) -> bool:
    """Against gold and scores looked up answer by answer."""
    rng = np.random.default_rng(0)
    for members, n_answers in ((3, 12), (5, 40)):
        by_answer = rng.normal(size=(members, n_answers))
        gold = rng.normal(size=n_answers)
        answers = np.argsort(-by_answer, axis=1)
        scores = np.take_along_axis(by_answer, answers, 1)
        for how in ("mean", "median", "min"):
            names, combined, paid = map(
                np.asarray, function(answers.copy(), scores.copy(), gold[answers], how)
            )
            expected = aggregate_rewards(by_answer, how)
            best_first = np.argsort(-expected)
            if not (
                np.array_equal(names, best_first)
                and np.allclose(combined, expected[best_first])
                and np.allclose(paid, gold[best_first])
            ):
                return False
    return True


CHECKS = {
    "floor": Exercise(
        _floor, "five members and the correlation 0.5 go into the formula of the floor"
    ),
    "coefficient": Exercise(
        _coefficient, "divide by the number of members in the variance, then set both scores equal"
    ),
    "order": Exercise(
        _order, "after ranking, does each row hold the name, the score and the gold of one answer?"
    ),
}
