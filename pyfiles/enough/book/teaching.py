"""Notebooks for a course: without the solutions for students, with them for instructors.

Both are made from the book's notebooks in plain Markdown. In a student's notebook a visible check
stands under each exercise. Its cells carry the metadata of nbgrader, so that nbgrader can collect
and grade the notebook; `grade` does the same without it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from enough.book.execution import CELL_TIMEOUT
from enough.book.launch import plain_notebooks
from enough.book.pairs import dumps

__all__ = ["Mark", "Task", "grade", "student_notebook", "tasks_of", "write_notebooks"]

#: One point for so many minutes of work, as the exercise's title gives them.
MINUTES_PER_POINT = 5
ANSWER, CHECK = "answer-", "check-"

_START = re.compile(r"^[`:]{3,}\{exercise-start\}[ \t]*(?P<title>.*)$", re.M)
_END = re.compile(r"^[`:]{3,}\{exercise-end\}", re.M)
_SOLUTION_START = re.compile(r"^[`:]{3,}\{solution-start\}", re.M)
_SOLUTION_END = re.compile(r"^[`:]{3,}\{solution-end\}", re.M)
_CALL = re.compile(r'exercises\.check\("(?P<name>[^"]+)",\s*(?P<answer>[A-Za-z_]\w*)\)')
_MINUTES = re.compile(r"\((\d+) minutes\)")


@dataclass(frozen=True)
class Task:
    """One exercise of a chapter.

    Attributes
    ----------
    title : str
        As the page shows it, without the minutes.
    minutes : int or None
        How long it takes; ``None`` for an open exercise.
    check : str or None
        The name of its check, ``"<part>/<chapter>/<exercise>"``; ``None`` without one.
    answer : str
        The name of what the check is given; empty without one.
    points : int
        What a right answer is worth; 0 without a check.
    """

    title: str
    minutes: int | None
    check: str | None
    answer: str
    points: int


@dataclass(frozen=True)
class Mark:
    """What one checked answer was worth.

    Attributes
    ----------
    check : str
        The name of the check.
    points : int
        Points reached: all or none.
    worth : int
        Points there were to reach.
    message : str
        What the check said; empty when the answer is right.
    """

    check: str
    points: int
    worth: int
    message: str


def tasks_of(book: NotebookNode) -> list[Task]:
    """Read the exercises of a notebook.

    Parameters
    ----------
    book : NotebookNode
        A notebook of the book, with its directives.

    Returns
    -------
    list of Task
        In the order of the notebook.

    Raises
    ------
    ValueError
        If an exercise does not begin and end in one Markdown cell, or has two checks.
    """
    return [task for cell in book.cells if (task := _task(cell))]


def student_notebook(book: NotebookNode) -> NotebookNode:
    """Take the solutions out of a notebook and put a place for the answer under each exercise.

    Parameters
    ----------
    book : NotebookNode
        A notebook of the book, with its directives. It is not changed.

    Returns
    -------
    NotebookNode
        Without solutions and outputs. Under each exercise stand a cell for the answer and, when
        the exercise has a check, a locked cell that calls it. Everything else is as it was.

    Raises
    ------
    ValueError
        As `tasks_of`, and if a solution has no end or shares a cell with other text.
    """
    tasks_of(book)  # every exercise is sound before anything is written
    headers = _headers(book)
    cells: list[NotebookNode] = []
    for cell in _without_solutions(book):
        cell = nbformat.from_dict(cell)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cells.append(cell)
        task = _task(cell)
        if task is not None:
            number = sum(_task(other) is not None for other in cells)
            cells += _answer_cells(task, headers, number)
    student = nbformat.from_dict({**book, "cells": cells})
    student.metadata.pop("celltoolbar", None)
    return student


def write_notebooks(root: Path, folder: Path, *, solved: bool) -> Iterator[Path]:
    """Write the notebooks of a course, in plain Markdown.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    folder : pathlib.Path
        Where to write; absent or empty.
    solved : bool
        ``True`` writes the instructor's notebooks: the solutions stand in them, and the outputs
        too when the chapter was executed. ``False`` writes the students'.

    Yields
    ------
    pathlib.Path
        Each file as it is written, at the path it has in the book.

    Raises
    ------
    ValueError
        If the folder holds something, or a notebook cannot be rendered; the message names it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder: expected an empty or absent folder, got {folder}")
    change = None if solved else student_notebook
    for page, book in sorted(plain_notebooks(root, change=change, outputs=solved).items()):
        name = Path(page).relative_to("chapters")
        path = folder / name
        book.metadata["enough"] = {"chapter": name.with_suffix("").as_posix()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dumps(book), encoding="utf-8")
        yield path


def grade(submission: NotebookNode, reference: NotebookNode, folder: Path) -> list[Mark]:
    """Run a student's notebook and count the points of its checks.

    Parameters
    ----------
    submission : NotebookNode
        What the student handed in. Its code runs with the rights of the caller: grade the
        notebooks of strangers in a container.
    reference : NotebookNode
        The same notebook as it was handed out. Its checks replace those of the submission, so
        that an edited or a missing check gains nothing.
    folder : pathlib.Path
        The folder the notebook runs in.

    Returns
    -------
    list of Mark
        In the order of the reference.

    Raises
    ------
    ValueError
        If the reference has no checks, or the submission has none of its checks.
    """
    from nbclient import NotebookClient

    checks = {name: cell for cell in reference.cells if (name := _grade_id(cell, CHECK))}
    if not checks:
        raise ValueError("reference: expected a student's notebook with checks, got none")
    cells, seen = [], set()
    for cell in submission.cells:
        name = _grade_id(cell, CHECK)
        if name in checks and name not in seen:
            seen.add(name)
            cells.append(nbformat.from_dict(checks[name]))
        elif name is None:
            cells.append(nbformat.from_dict(cell))
    if not seen:
        raise ValueError("submission: expected a notebook with the checks of the reference")
    running = nbformat.from_dict({**reference, "cells": cells})
    client = NotebookClient(
        running,
        timeout=CELL_TIMEOUT,
        interrupt_on_timeout=True,
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )
    done = {_grade_id(cell, CHECK): cell for cell in client.execute().cells}
    return [_mark(name, cell, done.get(name)) for name, cell in checks.items()]


def _mark(name: str, cell: NotebookNode, ran: NotebookNode | None) -> Mark:
    worth = cell.metadata["nbgrader"]["points"]
    check = _CALL.search(cell.source)["name"]
    if ran is None:
        return Mark(check, 0, worth, "the check is missing from the notebook")
    errors = [output for output in ran.outputs if output.output_type == "error"]
    if errors:
        return Mark(check, 0, worth, f"{errors[0].ename}: {errors[0].evalue}")
    if ran.execution_count is None:
        return Mark(check, 0, worth, "the check did not run")
    return Mark(check, worth, worth, "")


def _grade_id(cell: NotebookNode, kind: str) -> str | None:
    name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
    return name if cell.cell_type == "code" and name.startswith(kind) else None


def _task(cell: NotebookNode) -> Task | None:
    if cell.cell_type != "markdown":
        return None
    starts, ends = _START.findall(cell.source), _END.findall(cell.source)
    if not starts and not ends:
        return None
    if (len(starts), len(ends)) != (1, 1):
        raise ValueError(f"an exercise must begin and end in one cell, got {cell.source[:60]!r}")
    calls = _CALL.findall(cell.source)
    if len(calls) > 1:
        raise ValueError(f"an exercise has one check at most, got {len(calls)} in {starts[0]!r}")
    minutes = _MINUTES.search(starts[0])
    title = re.sub(r"\s*\((\d+ minutes|open)\)\s*$", "", starts[0])
    name, answer = calls[0] if calls else (None, "")
    length = int(minutes[1]) if minutes else None
    points = max(1, round((length or MINUTES_PER_POINT) / MINUTES_PER_POINT)) if calls else 0
    return Task(title, length, name, answer, points)


def _without_solutions(book: NotebookNode) -> Iterator[NotebookNode]:
    inside = False
    for cell in book.cells:
        text = cell.source if cell.cell_type == "markdown" else ""
        start, end = _SOLUTION_START.search(text), _SOLUTION_END.search(text)
        if start:
            if inside or text[: start.start()].strip():
                raise ValueError(f"a solution must begin its own cell, got {text[:60]!r}")
            inside = True
        if not inside:
            yield cell
        if end:
            if text[end.end() :].strip("`: \n"):
                raise ValueError(f"a solution must end its own cell, got {text[-60:]!r}")
            inside = False
    if inside:
        raise ValueError("a solution has no end")


def _headers(book: NotebookNode) -> dict[str, str]:
    """How the solutions spell the functions that an exercise asks for."""
    kept = {id(cell) for cell in _without_solutions(book)}
    headers = {}
    for cell in book.cells:
        if cell.cell_type == "code" and id(cell) not in kept:
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.FunctionDef):
                    headers[node.name] = f"def {node.name}({ast.unparse(node.args)}):"
    return headers


def _answer_cells(task: Task, headers: dict[str, str], number: int) -> list[NotebookNode]:
    name = task.check.rpartition("/")[2] if task.check else f"open-{number}"
    if not task.check:
        source = "# Your work."
    elif task.answer in headers:
        source = f"{headers[task.answer]}\n    ...  # your answer"
    else:
        source = f"{task.answer} = ...  # your answer"
    cells = [_cell(ANSWER + name, source, solution=True)]
    if task.check:
        call = (
            f'from enough.book import exercises\n\nexercises.check("{task.check}", {task.answer})'
        )
        cells.append(_cell(CHECK + name, call, solution=False, points=task.points))
    return cells


def _cell(name: str, source: str, *, solution: bool, points: int | None = None) -> NotebookNode:
    about = {
        "grade": points is not None,
        "grade_id": name,
        "locked": not solution,
        "schema_version": 3,
        "solution": solution,
        "task": False,
    }
    if points is not None:
        about["points"] = points
    # An answer that is not there yet must not stop "run all".
    metadata = {"nbgrader": about} | ({} if solution else {"tags": ["raises-exception"]})
    return new_code_cell(source, id=name[:64], metadata=metadata)
