"""The syllabus: plans of some weeks, and what each chapter asks of a student."""

from __future__ import annotations

from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

from enough.book.lessons import Lesson, plan
from enough.book.sphinx.parts import Measured, flat, link, table
from enough.book.teaching import tasks_of

__all__ = ["chapter_nodes", "collect_lesson", "plan_table"]

_AIMS, _NEEDS = "You will be able to", "You need"
_UNREAD = {"literal_block", "math", "math_block", "raw", "comment", "solution_node", "Placeholder"}


def collect_lesson(app: Sphinx, doctree: nodes.document) -> None:
    """Keep what a course needs to know of a chapter.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application; ``enough_lessons`` of its environment is filled.
    doctree : docutils.nodes.document
        A page that was read.
    """
    page = app.env.docname
    path = Path(app.env.doc2path(page))
    if path.suffix != ".ipynb":
        return
    tasks = tasks_of(nbformat.read(path, as_version=4))
    lesson = Lesson(
        page=page,
        words=sum(len(text.astext().split()) for text in _prose(doctree)),
        equations=sum(1 for _ in doctree.findall(nodes.math_block)),
        exercise_minutes=sum(task.minutes or 0 for task in tasks),
        open_exercises=sum(task.minutes is None for task in tasks),
        points=sum(task.points for task in tasks),
    )
    app.env.enough_lessons[page] = (
        lesson,
        flat(_list_after(doctree, _AIMS), app.env.enough_papers),
        flat(_paragraph(doctree, _NEEDS), app.env.enough_papers),
    )


def plan_table(app: Sphinx, page: str, weeks: int, first: int | None = None) -> nodes.Node:
    """Spread the chapters over weeks.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    page : str
        The page the table stands on.
    weeks : int
        How many weeks there are.
    first : int, optional
        Take only so many first chapters of each part.

    Returns
    -------
    docutils.nodes.Node
        The table.
    """
    rows = []
    for number, week in enumerate(plan(_lessons(app), weeks, first), 1):
        chapters = nodes.bullet_list()
        for lesson in week:
            chapters += nodes.list_item("", nodes.paragraph("", "", _title(app, page, lesson)))
        rows.append(
            [
                _text(str(number)),
                [chapters],
                _text(_minutes(sum(lesson.reading_minutes for lesson in week))),
                _text(_minutes(sum(lesson.exercise_minutes for lesson in week))),
                [nodes.paragraph("", "", _running(app, week))],
                _text(str(sum(lesson.points for lesson in week))),
            ]
        )
    heads = ["Week", "Chapters", "Reading", "Exercises", "Running", "Points"]
    return table(heads, rows, ["syllabus"])


def chapter_nodes(app: Sphinx, page: str) -> list[nodes.Node]:
    """Describe each chapter: aims, prerequisites, minutes and points.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    page : str
        The page the description stands on.

    Returns
    -------
    list of docutils.nodes.Node
        In the order of the book.
    """
    found: list[nodes.Node] = []
    for lesson in _lessons(app):
        _, aims, needs = app.env.enough_lessons[lesson.page]
        found.append(nodes.rubric("", "", _title(app, page, lesson), classes=["syllabus-chapter"]))
        found.append(nodes.paragraph("", f"{_AIMS}:"))
        found.append(aims.deepcopy())
        found.append(needs.deepcopy())
        line = nodes.paragraph(
            "",
            f"{_minutes(lesson.reading_minutes)} of reading ({lesson.words} words, "
            f"{lesson.equations} formulas), {_minutes(lesson.exercise_minutes)} of exercises and "
            f"{lesson.open_exercises} open, {lesson.points} points, run in ",
            classes=["syllabus-numbers"],
        )
        line += [_running(app, [lesson]), nodes.Text(".")]
        found.append(line)
    return found


def _lessons(app: Sphinx) -> list[Lesson]:
    order = {page: number for number, page in enumerate(app.enough_order())}
    lessons = [lesson for lesson, _, _ in app.env.enough_lessons.values()]
    return sorted(lessons, key=lambda lesson: order.get(lesson.page, len(order)))


def _title(app: Sphinx, page: str, lesson: Lesson) -> nodes.Node:
    return link(app, page, lesson.page, "", app.env.titles[lesson.page].astext())


def _running(app: Sphinx, week: list[Lesson]) -> Measured:
    seconds = 0.0
    for lesson in week:
        executed = app.env.nb_metadata.get(lesson.page, {}).get("exec_data") or {}
        if executed.get("runtime") is None:
            return Measured("", "a time not measured")
        seconds += executed["runtime"]
    return Measured("", f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min")


def _minutes(minutes: int) -> str:
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h".replace(".0 h", " h")


def _text(words: str) -> list[nodes.Node]:
    return [nodes.paragraph("", words)]


def _prose(node: nodes.Node):
    """The texts that a reader reads."""
    if isinstance(node, nodes.Text):
        yield node
        return
    if type(node).__name__ in _UNREAD:
        return
    for child in node.children:
        yield from _prose(child)


def _list_after(doctree: nodes.document, words: str) -> nodes.bullet_list:
    started = False
    for node in doctree.findall(nodes.Element):
        started = started or (isinstance(node, nodes.paragraph) and node.astext().startswith(words))
        if started and isinstance(node, nodes.bullet_list):
            return node
    return nodes.bullet_list()


def _paragraph(doctree: nodes.document, words: str) -> nodes.paragraph:
    for node in doctree.findall(nodes.paragraph):
        if node.astext().startswith(words):
            return node
    return nodes.paragraph()
