"""The arguments of ``enough sweep``, apart from what runs it: help needs no heavy import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command's arguments.

    Parameters
    ----------
    commands : argparse._SubParsersAction
        What ``add_subparsers`` returned.
    """
    text = "run a named sweep and write its table under results/"
    parser: argparse.ArgumentParser = commands.add_parser("sweep", help=text, description=text)
    parser.add_argument("name", nargs="?", metavar="part/name", help="absent: list them all")
    parser.add_argument("--preset", default="cpu", choices=("cpu", "gpu", "full"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="where the points compute; cuda with --gpus, else cpu")
    parser.add_argument("--store", type=Path, help="file of the results so far (in _build/sweeps)")
    parser.add_argument("--results", type=Path, help="folder of the recorded table (results)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--local",
        type=int,
        metavar="N",
        help="N workers on this machine, out of reach for others; with bokeh a dashboard, too",
    )
    where.add_argument("--scheduler", metavar="ADDRESS", help="a Dask cluster, as tls://host:port")
    parser.add_argument("--insecure", action="store_true", help="accept a scheduler without TLS")
    for option, what in (("ca", "authority"), ("cert", "certificate"), ("key", "key")):
        parser.add_argument(f"--tls-{option}", metavar="FILE", help=f"the TLS {what}")
    parser.add_argument(
        "--gpus",
        nargs="?",
        const="all",
        metavar="LIST",
        help="one worker pinned to each GPU: all, or numbers such as 0,1; with --scheduler, "
        "workers that offer the resource GPU",
    )
