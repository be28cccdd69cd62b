"""What stands under every page: the code, the day and the machine it comes from."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from pathlib import Path

from sphinx.application import Sphinx

from enough import __version__
from enough.book.provenance import (
    commit_of,
    executed_versions,
    outdated_tables,
    present_versions,
)

__all__ = ["banner_html", "collect_provenance", "footer_html"]


def collect_provenance(app: Sphinx) -> None:
    """Note once what is the same for all pages of a build.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application; ``enough_build`` of it is set.
    """
    commit, changed = commit_of(Path(app.srcdir))
    cache = app.config.nb_execution_cache_path if "nb_execution_cache_path" in app.config else ""
    app.enough_build = {
        "commit": commit,
        "changed": changed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": (executed_versions(Path(cache)) if cache else {}) or present_versions(),
    }


def footer_html(app: Sphinx, page: str, executed: str) -> str:
    """Say in one line which code, preset, device and versions produced a page.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    page : str
        The page's name.
    executed : str
        The day its notebook was executed; empty for a page without a notebook.

    Returns
    -------
    str
        A paragraph of HTML. Dates are marked as measured.
    """
    build = app.enough_build
    parts = [_commit_html(app, build)]
    parts.append(f"built on {_date(build['date'])}")
    if executed:
        parts.append(f"notebook executed on {_date(executed)}")
        places = sorted(
            {(claim["preset"], claim["device"]) for claim, _ in app.env.enough_ledger.get(page, [])}
        )
        parts += [f"{escape(preset)} preset on {escape(device)}" for preset, device in places]
        versions = {**build["versions"], "enough": __version__}
        parts.append(", ".join(f"{name} {escape(number)}" for name, number in versions.items()))
    return f'<p class="page-provenance">This page: {" · ".join(parts)}.</p>'


def banner_html(page: str) -> str:
    """Warn when a chapter's recorded tables are older than the code they measure.

    Parameters
    ----------
    page : str
        The page's name.

    Returns
    -------
    str
        An admonition in HTML; empty when every table is current or there are none.
    """
    tables = outdated_tables(page.removeprefix("chapters/")) if page.count("/") == 2 else []
    if not tables:
        return ""
    items = "".join(
        f"<li>{escape(table.preset)} preset on {escape(table.provenance['device_name'])}, "
        f"{_date(table.provenance['date'][:10])}, commit "
        f"{escape((table.provenance['commit'] or 'unknown')[:12])}</li>"
        for table in tables
    )
    return (
        '<div class="admonition warning outdated-tables"><p class="admonition-title">'
        "Recorded by older code</p><p>The code that these recorded tables measure has changed "
        f"since. A new recording may give other numbers.</p><ul>{items}</ul></div>"
    )


def _commit_html(app: Sphinx, build: dict) -> str:
    commit = build["commit"]
    if not commit:
        return "outside a checkout, commit unknown"
    address = app.config.html_theme_options.get("repository_url", "").rstrip("/")
    short = f"<code>{escape(commit[:12])}</code>"
    text = f'<a href="{escape(address)}/commit/{escape(commit)}">{short}</a>' if address else short
    return f"commit {text}{' with changes on top' * build['changed']}"


def _date(day: str) -> str:
    return f'<span class="measured" data-measured="">{escape(day)}</span>'
