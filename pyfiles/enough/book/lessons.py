"""What a course needs to know of a chapter: its aims, its length, and a place in the plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["EQUATION_WORDS", "WORDS_PER_MINUTE", "Lesson", "plan"]

#: Reading speed for a text with mathematics.
WORDS_PER_MINUTE = 150
#: A displayed formula takes as long as so many words.
EQUATION_WORDS = 15


@dataclass(frozen=True)
class Lesson:
    """A chapter as a course sees it.

    Attributes
    ----------
    page : str
        The page's name, for example ``"chapters/rewards/best_of_n"``.
    words : int
        Words of prose, captions and claims; code, outputs and solutions do not count.
    equations : int
        Displayed formulas.
    exercise_minutes : int
        Minutes that the titles of its exercises give; open ones do not count.
    open_exercises : int
        Exercises without a time.
    points : int
        What its checked exercises are worth in a graded assignment.
    """

    page: str
    words: int
    equations: int
    exercise_minutes: int
    open_exercises: int
    points: int

    @property
    def part(self) -> str:
        """The folder of its part."""
        return self.page.split("/")[-2]

    @property
    def reading_minutes(self) -> int:
        """Minutes of reading, rounded up to five."""
        minutes = (self.words + EQUATION_WORDS * self.equations) / WORDS_PER_MINUTE
        return 5 * math.ceil(minutes / 5)

    @property
    def minutes(self) -> int:
        """Minutes of reading and of exercises."""
        return self.reading_minutes + self.exercise_minutes


def plan(lessons: Sequence[Lesson], weeks: int, first: int | None = None) -> list[list[Lesson]]:
    """Spread chapters over weeks in the order of the book, so that the longest week is short.

    Parameters
    ----------
    lessons : sequence of Lesson
        In the order of the book.
    weeks : int
        How many weeks there are.
    first : int, optional
        Take only so many first chapters of each part.

    Returns
    -------
    list of list of Lesson
        One list a week, none of them empty; fewer weeks than asked for when there are fewer
        chapters. Among the plans whose longest week is shortest, the one whose weeks are most
        equal.

    Raises
    ------
    ValueError
        If ``weeks`` or ``first`` is not positive.
    """
    if weeks < 1:
        raise ValueError(f"weeks: expected at least 1, got {weeks}")
    if first is not None:
        if first < 1:
            raise ValueError(f"first: expected at least 1, got {first}")
        lessons = [
            lesson
            for number, lesson in enumerate(lessons)
            if sum(other.part == lesson.part for other in lessons[:number]) < first
        ]
    if not lessons:
        return []
    weeks = min(weeks, len(lessons))
    # best[n]: the cost of the first n chapters in w weeks, and where the last week begins
    best: list[tuple[float, float, tuple[int, ...]]] = [(0, 0, ())]
    best += [(math.inf, math.inf, ())] * len(lessons)
    for _ in range(weeks):
        best = [(math.inf, math.inf, ())] + [
            min(_longer(best[start], start, lessons[start:end]) for start in range(end))
            for end in range(1, len(lessons) + 1)
        ]
    starts = best[-1][2]
    ends = (*starts[1:], len(lessons))
    return [list(lessons[start:end]) for start, end in zip(starts, ends, strict=True)]


def _longer(
    before: tuple[float, float, tuple[int, ...]], start: int, week: Sequence[Lesson]
) -> tuple[float, float, tuple[int, ...]]:
    load = sum(lesson.minutes for lesson in week)
    longest, squares, starts = before
    return max(longest, load), squares + load**2, (*starts, start)
