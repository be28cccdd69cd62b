"""Whether this process is the kernel of a notebook."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["kernel"]


def kernel() -> Any:
    """Return the notebook kernel that runs this code, without importing Jupyter.

    Returns
    -------
    object or None
        The kernel; ``None`` in a terminal, in IPython's own terminal and in a plain script.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None)
