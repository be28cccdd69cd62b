"""Run one module of this folder and write its rows as JSON: what ``make bench`` starts.

``python run_module.py MODULE OUT [--quick]``, where MODULE is a ``bench_*`` module, ``growth`` or
``sweep_overhead``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

import side_by_side

__all__ = ["run"]


def run(module: str, quick: bool = False) -> dict:
    """Measure one module.

    Parameters
    ----------
    module : str
        Its name.
    quick : bool, default False
        Small sizes.

    Returns
    -------
    dict
        ``rows``, ``threads`` and ``versions`` of the packages that took part.
    """
    code = importlib.import_module(module)
    if module == "growth":
        rows = code.check_curves(code.curves(quick=quick))
    elif module == "sweep_overhead":
        rows = code.check_constants(code.constants(quick=quick))
    else:
        rows = side_by_side.check_rows(code.rows(quick=quick), module)
    return {"rows": rows, "threads": torch.get_num_threads(), "versions": _versions()}


def _versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    owners = metadata.packages_distributions()
    for package in sorted(side_by_side.ASKED):
        for name in owners.get(package, ()):
            found[name] = metadata.version(name)
    return found


def main() -> None:
    """Write the rows of the module named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    found = run(options.module, options.quick)
    options.out.write_text(json.dumps(found, allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main()
