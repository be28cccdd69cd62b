"""The skeleton of a new chapter: a small chapter that runs, with instructions to its author."""

from __future__ import annotations

from importlib import resources

__all__ = ["INSTRUCTION", "skeleton"]

#: Every instruction in a skeleton starts with these words; a finished chapter has none left.
INSTRUCTION = "To the author:"

_TEMPLATE = "skeleton.py.txt"


def skeleton(name: str, repository: str) -> str:
    """Return the twin of a new chapter.

    Parameters
    ----------
    name : str
        ``"<part>/<chapter>"``, both of letters, digits and ``_``, no digit first.
    repository : str
        Address of the repository that the install cell names, without a slash at the end.

    Returns
    -------
    str
        A script in the percent format with all parts of a chapter. It runs as it is, and its
        page builds without warnings: labels and figure names carry the chapter's name, since
        those of two chapters must differ.

    Raises
    ------
    ValueError
        If the name is not of that form, or the repository is not an address.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if len(parts) != 2 or not all(part.isascii() and part.isidentifier() for part in parts):
        raise ValueError(f"name: expected '<part>/<chapter>', got {name!r}")
    if not isinstance(repository, str) or not repository.startswith(("https://", "http://")):
        raise ValueError(f"repository: expected an address, got {repository!r}")
    template = resources.files("enough.book").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    label = "-".join(word for word in name.lower().replace("/", "_").split("_") if word)
    for mark, text in (("@NAME@", name), ("@LABEL@", label), ("@REPOSITORY@", repository)):
        template = template.replace(mark, text)
    return template
