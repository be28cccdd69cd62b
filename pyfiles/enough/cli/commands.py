"""What each subcommand does. Each takes the repository and the parsed arguments."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import nbformat

from enough.book import pairs
from enough.runtime import cpu_count

__all__ = ["CommandError"]


_JUPYTER_BOOK = (sys.executable, "-c", "from jupyter_book.cli.main import main; main()")


class CommandError(Exception):
    """A failure that one sentence explains."""


def book(root: Path, arguments: Namespace) -> int:
    """Execute the chapters, build the pages, print where to open them."""
    _build_pages(root)
    print(f"open {root / '_build' / 'html' / 'index.html'}")
    return 0


def test(root: Path, arguments: Namespace) -> int:
    """Build the pages the browser tests look at, then run every test."""
    from enough.book.execution import threads_shared_by

    _build_pages(root)
    with _step("tests"):
        options = [
            "-n", str(cpu_count()), "--dist", "loadfile",
            "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "300",
        ]  # fmt: skip
        with threads_shared_by(cpu_count()):
            return _run([sys.executable, "-m", "pytest", *options, *arguments.arguments], root)


def lint(root: Path, arguments: Namespace) -> int:
    """Check style, formatting and spelling."""
    checks = (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["codespell_lib", "README.md", "CONTRIBUTING.md", "chapters", "pyfiles", "tests"],
    )
    return max(_run([sys.executable, "-m", *check], root) for check in checks)


def notebooks(root: Path, arguments: Namespace) -> int:
    """Write the notebooks from their twins."""
    for pair in pairs.find_pairs(root):
        if not pair.twin.exists():
            raise CommandError(f"{pair.notebook} has no twin {pair.twin}: remove or rename it")
        print(f"{'wrote' if pairs.write(pair) else 'in step'}: {pair.name}")
    return 0


def claims(root: Path, arguments: Namespace) -> int:
    """Execute a notebook, store its claim lines, print the verdicts that changed."""
    from nbclient.exceptions import CellExecutionError

    from enough.book.execution import run_notebook

    pair = _pair(root, arguments.name)
    pairs.write(pair)
    before = nbformat.read(pair.notebook, as_version=4)
    try:
        executed = run_notebook(pair.notebook)
    except CellExecutionError as error:
        raise CommandError(f"{pair.name} fails, nothing was stored:\n{error}") from error
    after = pairs.make_notebook(pair.twin, executed)
    pair.notebook.write_text(pairs.dumps(after), encoding="utf-8")
    old, new = _lines(before), _lines(after)
    for line in (line for line in old if line not in new):
        print(f"- {line}")
    for line in new:
        print(f"{' ' if line in old else '+'} {line}")
    return 0


def chapter(root: Path, arguments: Namespace) -> int:
    """Write the skeleton of a new chapter."""
    from enough.book.scaffold import skeleton

    pair = pairs.Pair.named(root, _chapter_name(arguments.name))
    if pair.twin.exists():
        raise CommandError(f"{pair.twin} exists already")
    pair.twin.parent.mkdir(parents=True, exist_ok=True)
    pair.twin.write_text(skeleton(pair.name, _repository(root)), encoding="utf-8")
    pairs.write(pair)
    print(f"wrote {pair.twin.relative_to(root)} and its notebook")
    print(f"add 'file: chapters/{pair.name}' to _toc.yml, then: make chapter-run NAME={pair.name}")
    return 0


def chapter_run(root: Path, arguments: Namespace) -> int:
    """Write one notebook from its twin, execute it, build the pages, say where to look."""
    pair = _pair(root, arguments.name)
    pairs.write(pair)
    _build_pages(root, preview=pair.name)
    print(f"open {root / '_build' / 'html' / 'chapters' / (pair.name + '.html')}")
    return 0


def record(root: Path, arguments: Namespace) -> int:
    """Run chapters at larger presets and keep their tables under ``results/``."""
    from enough.cli.records import run_records

    if arguments.name is None:
        chapters = [pair for pair in pairs.find_pairs(root) if pair.twin.exists()]
    else:
        chapters = [_pair(root, arguments.name)]
    try:
        outcomes = run_records(
            root, chapters, arguments.preset, device=arguments.device, again=arguments.again
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    failed = [f"{one.name} ({one.preset})" for one in outcomes if one.state == "failed"]
    if failed:
        raise CommandError(f"{len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}")
    return 0


def bench(root: Path, arguments: Namespace) -> int:
    """Run every comparison and keep the tables, or print those asked for."""
    from enough.cli.benchmarks import run_benchmarks

    with _step("benchmarks"):
        return run_benchmarks(root, only=arguments.only, quick=arguments.quick)


def sweep(root: Path, arguments: Namespace) -> int:
    """Run a named sweep, or go on with it, and write its table."""
    from enough.cli.sweeps import run_sweep

    return run_sweep(root, arguments)


def oracles(root: Path, arguments: Namespace) -> int:
    """Ask the peers for their answers on small fixed inputs, in an environment of their own."""
    folder, scripts = root / ".venv-oracles", sorted((root / "tests" / "oracles").glob("make_*.py"))
    python = folder / "bin" / "python"
    with _step("environment of the peers"):
        if not python.exists():
            venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q"]
        torch = next(
            line
            for line in (root / "constraints.txt").read_text().split()
            if line.startswith("torch==")
        )
        for what in ([torch], ["-r", "tests/oracles/requirements.txt"]):
            if _run([*pip, *what], root):
                raise CommandError(
                    f"the peers could not be installed: pip install {' '.join(what)}"
                )
    for script in scripts:
        with _step(script.stem):
            if _run([str(python), str(script)], root):
                raise CommandError(f"{script.name} failed")
    return 0


def kernels(root: Path, arguments: Namespace) -> int:
    """Run the tests of the GPU kernels on the CPU, in Triton's interpreter."""
    folder = root / ".venv-kernels"
    python = folder / "bin" / "python"
    with _step("environment of the kernels"):
        if not python.exists():
            venv.create(folder, with_pip=True)
        # Everything of the book's environment, and Triton, which is larger than PyTorch.
        (site,) = folder.glob("lib/python*/site-packages")
        own = str(Path(sysconfig.get_paths()["purelib"]))
        (site / "book.pth").write_text(f"import site; site.addsitedir({own!r})\n")
        pip = [str(python), "-m", "pip", "install", "-q", "-r", "tests/kernels/requirements.txt"]
        if _run(pip, root):
            raise CommandError(
                "Triton could not be installed; it exists for Linux on x86-64 and ARM"
            )
    with _step("kernels in the interpreter"):
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        tests = [str(python), "-m", "pytest", "-q", "tests/kernels", *arguments.arguments]
        return _run(tests, root, environment)


def launch(root: Path, arguments: Namespace) -> int:
    """Write the notebooks of the launch branch: plain Markdown, the same paths."""
    from enough.book.launch import write_branch

    try:
        for path in write_branch(root, Path(arguments.folder)):
            print(path)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return 0


def student(root: Path, arguments: Namespace) -> int:
    """Write the notebooks for students: no solutions, a check under each exercise."""
    return _course(root, arguments, solved=False)


def instructor(root: Path, arguments: Namespace) -> int:
    """Write the notebooks for instructors: with solutions, and outputs where there are any."""
    return _course(root, arguments, solved=True)


def _course(root: Path, arguments: Namespace, *, solved: bool) -> int:
    from enough.book.teaching import write_notebooks

    folder = Path(arguments.folder or root / "_build" / arguments.command)
    try:
        for path in write_notebooks(root, folder, solved=solved):
            print(path)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return 0


def grade(root: Path, arguments: Namespace) -> int:
    """Run a student's notebook and print the points of each check, as a table and as JSON."""
    from nbclient.exceptions import DeadKernelError

    from enough.book import teaching

    path = Path(arguments.submission)
    try:
        submission = nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise CommandError(f"SUBMISSION: {path} is no notebook that can be read") from error
    name = submission.metadata.get("enough", {}).get("chapter", "")
    pair = _pair(root, name)
    reference = teaching.student_notebook(nbformat.read(pair.notebook, as_version=4))
    try:
        marks = teaching.grade(submission, reference, path.resolve().parent)
    except (ValueError, DeadKernelError) as error:
        raise CommandError(str(error)) from error
    for mark in marks:
        print(f"{mark.points:3d} of {mark.worth:d}  {mark.check}  {mark.message}".rstrip())
    reached, worth = sum(m.points for m in marks), sum(m.worth for m in marks)
    print(f"{reached:3d} of {worth:d}  in all")
    scores = [
        {"name": m.check, "score": m.points, "max_score": m.worth, "output": m.message}
        for m in marks
    ]
    path.with_suffix(".json").write_text(json.dumps({"tests": scores}, indent=1) + "\n")
    return 0


def links(root: Path, arguments: Namespace) -> int:
    """Ask every address of another host whether it answers; nothing is executed."""
    with _step("links"):
        environment = os.environ | {"ENOUGH_EXECUTION": "off"}
        output = root / "_build" / "links"
        command = [*_JUPYTER_BOOK, "build", str(root), "--path-output", str(output), "-q"]
        done = _run([*command, "--builder", "linkcheck", "--keep-going"], root, environment)
    found = sorted(output.rglob("output.json"))
    if not found:
        raise CommandError("the pages could not be read, see above")
    records = map(json.loads, found[0].read_text(encoding="utf-8").splitlines())
    broken = [record for record in records if record["status"] in ("broken", "timeout")]
    for record in broken:
        print(f"{record['filename']}: {record['uri']}: {record['info']}")
    print(f"{len(broken)} addresses do not answer")
    return int(bool(broken) or done != 0)


def reproducible(root: Path, arguments: Namespace) -> int:
    """Build the pages twice from the execution at hand, in two folders, and compare them."""
    from enough.book.execution import cache_folder
    from enough.book.reproducible import differences

    cache = cache_folder(root)
    if not cache.is_dir():
        raise CommandError("no execution at hand: run 'make book' first")
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, which) for which in ("first", "second")]
        for folder in folders:
            with _step(f"{folder.name} build"):
                environment = os.environ | {"ENOUGH_EXECUTION_CACHE": str(cache)}
                command = [*_JUPYTER_BOOK, "build", str(root), "--path-output", str(folder)]
                if _run([*command, "-n", "-W", "--keep-going", "-q"], root, environment):
                    raise CommandError("the pages have warnings, listed above")
        found = list(differences(*(folder / "_build" / "html" for folder in folders)))
    for line in found:
        print(line)
    print(f"{len(found)} files differ")
    return int(bool(found))


def _build_pages(root: Path, preview: str | None = None) -> None:
    """Execute what the cache lacks and build; a preview executes one chapter only."""
    from enough.book.execution import cache_folder, execute, preview_folder

    stale = [line for pair in pairs.find_pairs(root) for line in pairs.differences(pair)]
    if stale and preview is None:
        raise CommandError("notebooks and twins are out of step:\n  " + "\n  ".join(stale))
    with _step("chapters"):
        folder = cache_folder(root) if preview is None else preview_folder(root)
        runs = execute(root, None if preview is None else [preview], folder)
        for run in runs:
            state = "failed" if run.seconds is None else f"{run.seconds:.1f} s"
            print(f"  {run.name}: {state}{' (from the cache)' if run.reused else ''}")
        failed = [run for run in runs if run.seconds is None]
        if failed:
            print("\n".join(run.traceback for run in failed), file=sys.stderr)
            raise CommandError(f"failed: {', '.join(run.name for run in failed)}")
    with _step("pages"):
        environment = os.environ | {"ENOUGH_EXECUTION_CACHE": str(folder)}
        command = [*_JUPYTER_BOOK, "build", str(root), "-n", "-W", "--keep-going", "-q"]
        if _run(command, root, environment):
            raise CommandError("the pages have warnings, listed above")


def _pair(root: Path, name: str) -> pairs.Pair:
    pair = pairs.Pair.named(root, _chapter_name(name))
    if not pair.twin.exists():
        known = ", ".join(p.name for p in pairs.find_pairs(root))
        raise CommandError(f"NAME: expected one of {known}, got {name!r}")
    return pair


def _chapter_name(name: str) -> str:
    parts = name.split("/")
    if len(parts) != 2 or not all(part.isidentifier() for part in parts):
        raise CommandError(f"NAME: expected part/name in letters, digits and '_', got {name!r}")
    return name


def _repository(root: Path) -> str:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["urls"]["Repository"]


def _lines(notebook: nbformat.NotebookNode) -> list[str]:
    return [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    """Say what runs and how long it took."""
    print(f"== {name}", flush=True)
    started = time.monotonic()
    yield
    print(f"== {name}: {time.monotonic() - started:.1f} s", flush=True)


def _run(command: list[str], root: Path, environment: dict[str, str] | None = None) -> int:
    return subprocess.run(command, cwd=root, env=environment, check=False).returncode
