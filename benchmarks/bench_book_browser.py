"""How soon does a page of the book show something, and does it then hold still?

Pages come from a server on this machine, into a browser without a window and with an empty cache.
The title page and the longest chapter also come as on a telephone: 1.6 Mbit/s, 150 ms a request and
a processor four times as slow. The first paint with words or a picture is timed, and the largest
one. Each page is once scrolled to its end; what jumps on the way is the layout shift of its note.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import statistics
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from side_by_side import as_row, main, not_measured

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGES = {
    "title page": "chapters/index.html",
    "atlas": "chapters/atlas.html",
    "scoreboard": "chapters/scoreboard.html",
}
ROUNDS = 5
SLOW_ROUNDS = 3
VIEW = {"width": 1280, "height": 900}
TELEPHONE = {"width": 390, "height": 844}
NETWORK = {
    "offline": False,
    "latency": 150,
    "downloadThroughput": 1.6e6 / 8,
    "uploadThroughput": 0.75e6 / 8,
}
SLOWER = 4
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WATCH = """
window.seen = {shift: 0, largest: 0};
new PerformanceObserver(list => {
  for (const e of list.getEntries()) if (!e.hadRecentInput) seen.shift += e.value;
}).observe({type: 'layout-shift', buffered: true});
new PerformanceObserver(list => {
  for (const e of list.getEntries()) seen.largest = e.startTime;
}).observe({type: 'largest-contentful-paint', buffered: true});
"""
SCROLL = """async () => {
  const wait = () => new Promise(done => setTimeout(done, 40));
  const step = Math.max(window.innerHeight, document.documentElement.scrollHeight / 30);
  for (let y = 0; y < document.documentElement.scrollHeight; y += step) {
    window.scrollTo({top: y, behavior: 'instant'});
    await wait();
  }
}"""
SMALL = "<!doctype html><html lang=en><title>A page</title><h1>One line</h1><p>And some words.</p>"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Print no line a request."""


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _heaviest_chapter(html: Path) -> str:
    """Name the chapter with the longest page."""
    pages = [p for p in html.glob("chapters/*/*.html") if p.stem != "index"]
    return max(pages, key=lambda p: p.stat().st_size).relative_to(html).as_posix()


def _load(browser, address: str, telephone: bool, scroll: bool) -> dict[str, float]:
    """Load a page into an empty cache; seconds, layout shift and MiB."""
    context = browser.new_context(viewport=TELEPHONE if telephone else VIEW)
    try:
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        bytes_ = [0.0]
        session.on(
            "Network.loadingFinished",
            lambda event: bytes_.append(bytes_.pop() + event["encodedDataLength"]),
        )
        if telephone:
            session.send("Network.emulateNetworkConditions", NETWORK)
            session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
        page.add_init_script(WATCH)
        page.goto(address, wait_until="load", timeout=120_000)
        page.wait_for_function("seen.largest > 0", timeout=120_000)
        first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        largest = page.evaluate("seen.largest")
        if scroll:
            page.evaluate(SCROLL)
        shift = page.evaluate("seen.shift")
        return {
            "first": first / 1e3,
            "largest": largest / 1e3,
            "shift": shift,
            "mib": bytes_[0] / 2**20,
        }
    finally:
        context.close()


def _page_rows(browser, name: str, address: str, rounds: int, telephone: bool) -> list[dict]:
    """Load one page several times and make a row of each kind of paint."""
    loads = [_load(browser, address, telephone, not n) for n in range(rounds)]
    where = "as on a telephone" if telephone else "on this machine"
    result = []
    for kind in ("first", "largest"):
        seconds = [load[kind] for load in loads]
        note = f"median {statistics.median(seconds):.3g} s"
        if kind == "first":
            mib, shift = loads[0]["mib"], max(load["shift"] for load in loads)
            note += f"; {mib:.2f} MiB come over; layout shift at most {shift:.3f}"
        result.append(as_row(f"{name}, {kind} contentful paint, {where}", seconds, note=note))
    return result


def _absent(html: Path) -> str:
    """Say what is missing, in words; empty when nothing is."""
    if find_spec("playwright") is None:
        return "the package playwright is not installed"
    if not any(map(shutil.which, BROWSERS)):
        return "no Chromium or Chrome on this machine"
    if not (html / PAGES["title page"]).exists():
        return "no built book: 'make book' builds it"
    return ""


def rows(quick: bool = False) -> list[dict]:
    """Time the paints of four pages.

    Parameters
    ----------
    quick : bool, default False
        One small page, loaded twice, in place of the book's.

    Returns
    -------
    list of dict
        As ``README.md`` describes, without peers. Where there is no browser or no book, one row
        says so.
    """
    with tempfile.TemporaryDirectory() as folder:
        html, pages, rounds = HTML, dict(PAGES), ROUNDS
        if quick:
            html, pages, rounds = Path(folder), {"small page": PAGES["title page"]}, 2
            (html / "chapters").mkdir()
            (html / PAGES["title page"]).write_text(SMALL, encoding="utf-8")
        reason = _absent(html)
        if reason:
            return [not_measured("first contentful paint", reason)]
        if not quick:
            pages["longest chapter"] = _heaviest_chapter(html)
        return _measured(html, pages, rounds, telephone=not quick)


def _measured(html: Path, pages: dict[str, str], rounds: int, telephone: bool) -> list[dict]:
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)))
    result = []
    with _served(html) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS)
        try:
            for name, page in pages.items():
                result += _page_rows(browser, name, address + page, rounds, False)
            for name in ("title page", "longest chapter"):
                if telephone:
                    page = address + pages[name]
                    result += _page_rows(browser, name, page, SLOW_ROUNDS, True)
        finally:
            browser.close()
    return result


if __name__ == "__main__":
    main(rows)
