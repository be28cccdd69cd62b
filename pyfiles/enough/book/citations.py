"""The bibliography, as prose names a paper: authors, year, address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pybtex.database import Entry, Person, parse_file

__all__ = ["Citation", "read_citations"]


@dataclass(frozen=True)
class Citation:
    """A paper as the text names it.

    Parameters
    ----------
    who : str
        The authors, for example ``"Simon et al."``.
    year : str
        The year.
    url : str, default ""
        Where to read it; empty when the bibliography names no address.
    title : str, default ""
        The title, as the bibliography spells it.
    """

    who: str
    year: str
    url: str = ""
    title: str = ""


def read_citations(path: Path) -> dict[str, Citation]:
    """Read a bibliography.

    Parameters
    ----------
    path : pathlib.Path
        A BibTeX file.

    Returns
    -------
    dict from str to Citation
        By citation key.
    """
    return {key: _citation(key, entry) for key, entry in parse_file(str(path)).entries.items()}


def _citation(key: str, entry: Entry) -> Citation:
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [_family_name(person) for person in people]
    if not names:
        who = key
    elif len(names) == 1:
        who = names[0]
    elif len(names) == 2 and names[1] != "others":
        who = f"{names[0]} and {names[1]}"
    else:
        who = f"{names[0]} et al."
    fields = entry.fields
    url = fields.get("url", "")
    if not url and "doi" in fields:
        url = f"https://doi.org/{fields['doi']}"
    if not url and fields.get("archiveprefix", "").lower() == "arxiv" and "eprint" in fields:
        url = f"https://arxiv.org/abs/{fields['eprint']}"
    return Citation(who, fields.get("year", "n.d."), url, fields.get("title", ""))


def _family_name(person: Person) -> str:
    return " ".join(str(part) for part in person.rich_prelast_names + person.rich_last_names)
