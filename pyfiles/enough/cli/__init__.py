"""The command ``enough``: what the Makefile calls, and what a reader runs by hand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from enough.cli.sweep_arguments import add_parser as add_sweep

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process when omitted.

    Returns
    -------
    int
        The exit status: 0 on success, 1 on a failure told in one sentence, 130 when interrupted.
    """
    arguments = _parser().parse_args(argv)
    # Notebooks ask the shell for `python`: it must be the one that runs this command.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    from enough.cli import commands

    try:
        return getattr(commands, arguments.command.replace("-", "_"))(_root(), arguments)
    except commands.CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="enough", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("book", help="execute the chapters and build the pages")
    test = commands.add_parser("test", help="build the pages, then run every test")
    test.add_argument("arguments", nargs="*", help="passed on to pytest")
    commands.add_parser("lint", help="check style, formatting and spelling")
    commands.add_parser("notebooks", help="write the notebooks from their twins")
    for name, text in (
        ("claims", "execute a notebook and store its claim lines"),
        ("chapter", "write the skeleton of a new chapter"),
        ("chapter-run", "from an edit of one chapter to its page"),
    ):
        commands.add_parser(name, help=text).add_argument("name", metavar="part/name")
    record = commands.add_parser("record", help="run the chapters at larger presets, keep tables")
    record.add_argument("name", metavar="part/name", nargs="?", help="all chapters without it")
    record.add_argument(
        "--preset",
        nargs="+",
        default=["gpu", "full"],
        choices=("cpu", "gpu", "full"),
        help="one or several, in this order (default: gpu full)",
    )
    record.add_argument("--device", help="for example cuda:1 or cpu (default: the accelerator)")
    record.add_argument("--again", action="store_true", help="also what is recorded already")
    bench = commands.add_parser("bench", help="run the side-by-side comparisons")
    bench.add_argument("--only", default="", help="modules whose name holds this; writes nothing")
    bench.add_argument("--quick", action="store_true", help="small sizes; writes nothing")
    add_sweep(commands)
    commands.add_parser("oracles", help="ask the peers for their answers on small fixed inputs")
    kernels = commands.add_parser("kernels", help="test the GPU kernels in Triton's interpreter")
    kernels.add_argument("arguments", nargs="*", help="passed on to pytest")
    launch = commands.add_parser("launch", help="write notebooks for Colab and Binder")
    launch.add_argument("folder", help="where to write them; empty or absent")
    for name, text in (
        ("student", "write notebooks without solutions, with a check under each exercise"),
        ("instructor", "write notebooks with solutions and outputs"),
    ):
        course = commands.add_parser(name, help=text)
        course.add_argument("folder", nargs="?", help="where to write them; empty or absent")
    commands.add_parser("links", help="ask every address of another host whether it answers")
    commands.add_parser("reproducible", help="build the pages twice from one execution, compare")
    grade = commands.add_parser("grade", help="run a student's notebook and count its points")
    grade.add_argument("submission", help="the notebook that was handed in")
    return parser


def _root() -> Path:
    """The checkout: the folder above this one that holds ``_toc.yml``."""
    for folder in (Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents):
        if (folder / "_toc.yml").exists() and (folder / "pyfiles").is_dir():
            return folder
    raise SystemExit("error: run this command inside a checkout of the book")
