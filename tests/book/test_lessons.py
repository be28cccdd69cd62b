"""Plans of a course: in order, nothing left out, and no shorter longest week."""

import itertools

import pytest

from enough.book.lessons import Lesson, plan


def _lesson(number, words, part="one"):
    return Lesson(f"chapters/{part}/{number}", words, 0, 0, 1, 3)


def _minutes(plan):
    return [sum(lesson.minutes for lesson in week) for week in plan]


def test_reading_takes_longer_with_words_and_formulas():
    assert Lesson("chapters/a/b", 1500, 0, 0, 0, 0).reading_minutes == 10
    assert Lesson("chapters/a/b", 1501, 0, 0, 0, 0).reading_minutes == 15
    assert Lesson("chapters/a/b", 1400, 10, 0, 0, 0).reading_minutes == 15
    lesson = Lesson("chapters/a/b", 1500, 0, 45, 2, 9)
    assert lesson.minutes == 55
    assert lesson.part == "a"


@pytest.mark.parametrize("weeks", range(1, 8))
def test_the_longest_week_is_as_short_as_brute_force_finds(weeks):
    words = [3000, 900, 4500, 1500, 1500, 6000, 750]
    lessons = [_lesson(n, w) for n, w in enumerate(words)]
    found = plan(lessons, weeks)
    assert [lesson for week in found for lesson in week] == lessons
    assert len(found) == weeks
    assert all(found)
    best = min(
        max(_minutes([lessons[a:b] for a, b in itertools.pairwise((0, *cuts, 7))]))
        for cuts in itertools.combinations(range(1, 7), weeks - 1)
    )
    assert max(_minutes(found)) == best


def test_among_equal_longest_weeks_the_most_equal_plan_wins():
    lessons = [_lesson(n, w) for n, w in enumerate([6000, 1500, 1500, 1500])]
    assert _minutes(plan(lessons, 3)) == [40, 10, 20] or _minutes(plan(lessons, 3)) == [40, 20, 10]


def test_a_short_course_takes_the_first_chapters_of_each_part():
    lessons = [_lesson(n, 1500, part) for part in ("a", "b") for n in range(3)]
    pages = [lesson.page for week in plan(lessons, 2, first=2) for lesson in week]
    assert pages == ["chapters/a/0", "chapters/a/1", "chapters/b/0", "chapters/b/1"]


def test_more_weeks_than_chapters_leave_none_empty():
    assert len(plan([_lesson(0, 100), _lesson(1, 100)], 10)) == 2
    assert plan([], 10) == []


@pytest.mark.parametrize(("weeks", "first", "name"), [(0, None, "weeks"), (3, 0, "first")])
def test_a_plan_of_nothing_is_refused(weeks, first, name):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        plan([_lesson(0, 100)], weeks, first)
