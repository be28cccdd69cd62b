"""Notebooks for a course: no solution reaches a student, and right answers earn the points."""

import ast
import json
import re
from argparse import Namespace
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from enough.book import exercises, pairs, teaching
from enough.cli import commands

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [pair for pair in pairs.find_pairs(ROOT) if pair.notebook.exists()]
MODULES = sorted(
    path.relative_to(ROOT / "pyfiles/enough/book/checks").with_suffix("").as_posix()
    for path in (ROOT / "pyfiles/enough/book/checks").glob("*/*.py")
    if path.stem != "__init__"
)
CHECKS = [f"{chapter}/{name}" for chapter in MODULES for name in exercises.checks_of(chapter)]

every_chapter = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
FENCE = "```"


def _exercise(title, text):
    return new_markdown_cell(
        f"{FENCE}{{exercise-start}} {title}\n:label: ex-{title[:3].strip()}\n{FENCE}\n{text}\n"
        f"{FENCE}{{exercise-end}}\n{FENCE}"
    )


def _solution(code):
    start = f"{FENCE}{{solution-start}} ex\n:class: dropdown\n{FENCE}\nThe secret is 128."
    return [
        new_markdown_cell(start),
        new_code_cell(code),
        new_markdown_cell(f"{FENCE}{{solution-end}}\n{FENCE}"),
    ]


@pytest.fixture
def book():
    """Three exercises: a number, a function, an open one."""
    prefix = "overparameterization/random_features"
    return new_notebook(
        cells=[
            new_markdown_cell("# A chapter"),
            new_code_cell("start = 1", outputs=[], execution_count=1),
            _exercise("One (5 minutes)", f'`exercises.check("{prefix}/modes", your_z)`'),
            *_solution("your_z = 128.0"),
            _exercise("Two (20 minutes)", f'`exercises.check("{prefix}/threshold", share)`'),
            *_solution("def share(a, *, b=2):\n    return a"),
            _exercise("Try (open)", "Anything."),
            *_solution("pass"),
            new_markdown_cell("## After"),
        ]
    )


def _by_id(book):
    return {c.metadata["nbgrader"]["grade_id"]: c for c in book.cells if "nbgrader" in c.metadata}


def test_exercises_are_read_with_their_minutes_and_points(book):
    tasks = teaching.tasks_of(book)
    assert [(t.title, t.minutes, t.points, t.answer) for t in tasks] == [
        ("One", 5, 1, "your_z"),
        ("Two", 20, 4, "share"),
        ("Try", None, 0, ""),
    ]


def test_solutions_go_and_places_for_answers_come(book):
    before = book.copy()
    student = teaching.student_notebook(book)
    assert book == before
    nbformat.validate(student)
    text = "\n".join(cell.source for cell in student.cells)
    assert "128" not in text
    assert "solution" not in text
    assert student.cells[-1].source == "## After"
    cells = _by_id(student)
    assert list(cells) == [
        "answer-modes", "check-modes", "answer-threshold", "check-threshold", "answer-open-3",
    ]  # fmt: skip
    assert cells["answer-modes"].source == "your_z = ...  # your answer"
    assert cells["answer-threshold"].source == "def share(a, *, b=2):\n    ...  # your answer"
    check = cells["check-threshold"]
    assert check.source.endswith('threshold", share)')
    assert check.metadata["nbgrader"] == {
        "grade": True, "grade_id": "check-threshold", "locked": True, "points": 4,
        "schema_version": 3, "solution": False, "task": False,
    }  # fmt: skip
    answer = cells["answer-modes"].metadata["nbgrader"]
    assert answer["solution"]
    assert not answer["locked"]
    assert "points" not in answer


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([new_markdown_cell("```{exercise-start} X\n```")], "begin and end in one cell"),
        ([new_markdown_cell("text\n```{solution-start} x\n```")], "must begin its own cell"),
        ([new_markdown_cell("```{solution-start} x\n```")], "a solution has no end"),
        (
            [
                new_markdown_cell("```{solution-start} x\n```"),
                new_markdown_cell("```{solution-end}\n```\nleft over"),
            ],
            "must end its own cell",
        ),
    ],
)
def test_a_notebook_out_of_order_is_refused(cells, message):
    with pytest.raises(ValueError, match=message):
        teaching.student_notebook(new_notebook(cells=cells))


@every_chapter
def test_a_student_gets_every_exercise_and_no_solution(pair):
    book = nbformat.read(pair.notebook, as_version=4)
    tasks = teaching.tasks_of(book)
    student = teaching.student_notebook(book)
    nbformat.validate(student)
    assert len(tasks) >= 3
    named = [task.check.rpartition("/")[2] for task in tasks if task.check]
    assert sorted(named) == sorted(exercises.checks_of(pair.name))
    cells = _by_id(student)
    assert len(cells) == len(tasks) + len(named)
    text = "\n".join(c.source for c in student.cells)
    assert "{solution-" not in text
    assert text.count("exercise-start") == len(tasks)
    assert not any(cell.get("outputs") for cell in student.cells)


def _names(cell, kind):
    if cell.cell_type != "code" or cell.source.startswith("!"):
        return set()
    nodes = list(ast.walk(ast.parse(cell.source)))
    found = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}
    if kind is ast.Store:
        found |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        found |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        imports = [a for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names]
        found |= {(a.asname or a.name).split(".")[0] for a in imports}
    return found


@every_chapter
def test_no_cell_needs_what_only_a_solution_defines(pair):
    book = nbformat.read(pair.notebook, as_version=4)
    everywhere = set().union(*(_names(cell, ast.Store) for cell in book.cells))
    student = teaching.student_notebook(book)
    known = set()
    for cell in student.cells:
        known |= _names(cell, ast.Store)
        missing = (_names(cell, ast.Load) & everywhere) - known
        assert missing == set(), cell.source


WRONG = [None, float("nan"), -98765.4321, "no", ..., lambda *given, **named: float("nan")]


@pytest.mark.parametrize("name", CHECKS)
def test_wrong_answers_get_the_hint(name):
    hint = exercises.checks_of(name.rpartition("/")[0])[name.rpartition("/")[2]].hint
    assert len(hint.split()) >= 4
    for wrong in WRONG:
        with pytest.raises(AssertionError, match=r"^not yet") as caught:
            exercises.check(name, wrong)
        assert str(caught.value).endswith(f"Hint: {hint}")


@every_chapter
def test_the_solutions_hand_the_right_answer_to_every_check(pair):
    """The solutions run with the chapter, so every check has passed with a right answer."""
    book = nbformat.read(pair.notebook, as_version=4)
    given = teaching.student_notebook(book)
    kept = {cell.id for cell in given.cells}
    solved = "\n".join(c.source for c in book.cells if c.id not in kept and c.cell_type == "code")
    calls = set(re.findall(r'exercises\.check\(\s*"([^"]+)"', solved))
    assert {f"{pair.name}/{name}" for name in exercises.checks_of(pair.name)} <= calls


def _answered(student, **answers):
    cells = _by_id(student)
    for name, source in answers.items():
        cells[f"answer-{name}"].source = source
    return student


def test_right_answers_earn_the_points_and_wrong_ones_a_hint(book, tmp_path):
    reference = teaching.student_notebook(book)
    handed_in = _answered(teaching.student_notebook(book), modes="your_z = 64 * 2")
    marks = teaching.grade(handed_in, reference, tmp_path)
    assert [(m.check.rpartition("/")[2], m.points, m.worth) for m in marks] == [
        ("modes", 1, 1),
        ("threshold", 0, 4),
    ]
    assert marks[0].message == ""
    assert marks[1].message.startswith("AssertionError: not yet")
    assert "Hint: " in marks[1].message


def test_an_edited_or_missing_check_earns_nothing(book, tmp_path):
    reference = teaching.student_notebook(book)
    handed_in = _answered(
        teaching.student_notebook(book), modes="your_z = 1", threshold="share = 2/3"
    )
    _by_id(handed_in)["check-modes"].source = "pass"
    handed_in.cells = [
        c for c in handed_in.cells
        if c.metadata.get("nbgrader", {}).get("grade_id") != "check-threshold"
    ]  # fmt: skip
    marks = teaching.grade(handed_in, reference, tmp_path)
    assert [m.points for m in marks] == [0, 0]
    assert "not yet" in marks[0].message
    assert marks[1].message == "the check is missing from the notebook"


def test_a_notebook_of_something_else_is_refused(book, tmp_path):
    reference = teaching.student_notebook(book)
    with pytest.raises(ValueError, match="submission: expected"):
        teaching.grade(new_notebook(cells=[new_code_cell("1")]), reference, tmp_path)
    with pytest.raises(ValueError, match="reference: expected"):
        teaching.grade(reference, book, tmp_path)


@pytest.mark.parametrize("solved", [False, True])
def test_the_whole_book_is_written_in_plain_markdown(tmp_path, solved):
    written = list(teaching.write_notebooks(ROOT, tmp_path / "course", solved=solved))
    assert [p.relative_to(tmp_path / "course").with_suffix("").as_posix() for p in written] == [
        pair.name for pair in PAIRS
    ]
    for path, pair in zip(written, PAIRS, strict=True):
        book = nbformat.read(path, as_version=4)
        nbformat.validate(book)
        text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
        assert not re.search(r"\{(exercise|solution)-(start|end)\}|\{(term|cite|eq|glue)", text)
        assert ("**Solution to Exercise" in text) == solved
        assert book.metadata["enough"] == {"chapter": pair.name}
    with pytest.raises(ValueError, match="folder: expected an empty or absent folder"):
        list(teaching.write_notebooks(ROOT, tmp_path / "course", solved=solved))


def test_the_command_grades_a_file(book, tmp_path, monkeypatch, capsys):
    """A small book stands in for a chapter, so that grading takes seconds."""
    root = tmp_path / "repository"
    pair = pairs.Pair.named(root, "overparameterization/random_features")
    for path in (pair.twin, pair.notebook):
        path.parent.mkdir(parents=True)
    pair.twin.write_text("")
    nbformat.write(book, pair.notebook)
    student = teaching.student_notebook(book)
    _answered(student, modes="your_z = 128", threshold="share = 2 / 3")
    student.metadata["enough"] = {"chapter": pair.name}
    path = tmp_path / "handed_in.ipynb"
    nbformat.write(student, path)
    assert commands.grade(root, Namespace(submission=str(path))) == 0
    assert "5 of 5  in all" in capsys.readouterr().out
    scores = json.loads(path.with_suffix(".json").read_text())["tests"]
    assert [(s["name"].rpartition("/")[2], s["score"], s["max_score"]) for s in scores] == [
        ("modes", 1, 1),
        ("threshold", 4, 4),
    ]


@pytest.mark.parametrize("text", ["", "not json"])
def test_the_command_says_that_a_file_is_no_notebook(tmp_path, text):
    path = tmp_path / "handed_in.ipynb"
    if text:
        path.write_text(text)
    with pytest.raises(commands.CommandError, match="is no notebook that can be read"):
        commands.grade(ROOT, Namespace(submission=str(path)))
