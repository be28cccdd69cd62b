"""The shared package of the executable book *How Much Is Enough?*.

Rooms, top to bottom (an import may only point down): ``cli``, ``book``, the topics,
``training``, ``models``, ``data``, ``kernels``, ``plotting``, ``runtime``.
"""

from importlib import metadata as _metadata

__all__ = ["__version__"]


def _refuse_foreign_package() -> None:
    """PyPI holds an unrelated project called ``enough`` that installs a module of this name."""
    try:
        _metadata.distribution("enough")
    except _metadata.PackageNotFoundError:
        return
    raise ImportError(
        "an unrelated PyPI project named 'enough' is installed and shadows this book's package: "
        "run 'pip uninstall enough', then install how-much-is-enough again"
    )


_refuse_foreign_package()

try:
    __version__ = _metadata.version("how-much-is-enough")
except _metadata.PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
