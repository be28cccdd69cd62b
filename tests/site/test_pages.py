"""The built pages, read as files and looked at in a headless browser."""

import csv
import functools
import http.server
import json
import re
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]


HTML = ROOT / "_build" / "html"
PAGES = sorted(p.relative_to(HTML).as_posix() for p in HTML.glob("chapters/**/*.html"))
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
CHAPTERS = sorted(
    p.relative_to(ROOT).with_suffix(".html").as_posix()
    for p in (ROOT / "chapters").rglob("*.ipynb")
)

pytestmark = pytest.mark.book
built = pytest.mark.skipif(not PAGES, reason="no built pages: run 'make test' or 'make book' first")
browser_present = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome on this machine"
)


class _Page(HTMLParser):
    """What a page refers to, and what it can be referred by."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.images, self.ids = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") not in (
            "canonical",
            "search",
            "author",
            "next",
            "prev",
            "index",
        ):
            self.loads.append(given.get("href", ""))


@functools.cache
def _page(name):
    return _Page((HTML / name).read_text(encoding="utf-8"))


@built
def test_every_page_of_the_contents_was_built():
    import yaml

    text = (ROOT / "_toc.yml").read_text()
    wanted = set(re.findall(r"(?:file|root): (\S+)", text))
    assert yaml.safe_load(text)["format"] == "jb-book"
    assert {p.removesuffix(".html") for p in PAGES} == wanted


@built
@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_lead_somewhere(name):
    broken = []
    for link in _page(name).links:
        if re.match(r"[a-z]+:", link):
            continue
        path, anchor = urldefrag(link)
        target = (HTML / name).parent / unquote(path) if path else HTML / name
        if not target.exists():
            broken.append(link)
        elif anchor and target.suffix == ".html":
            inside = _page(target.resolve().relative_to(HTML.resolve()).as_posix())
            if unquote(anchor) not in inside.ids:
                broken.append(link)
    assert broken == []


@built
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_another_host(name):
    assert [load for load in _page(name).loads if re.match(r"(https?:)?//", load)] == []


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_image_exists_and_says_what_it_shows(name):
    images = _page(name).images
    figures = [image for image in images if "_images" in image["src"]]
    assert figures
    for image in figures:
        assert (HTML / name).parent.joinpath(image["src"]).exists()
        assert len(image.get("alt", "")) > 20
    assert [image for image in images if "alt" not in image] == []


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_buttons_point_to_the_launch_branch_and_to_main(name):
    notebook = name.replace(".html", ".ipynb")
    links = _page(name).links
    (colab,) = [link for link in links if "colab.research.google.com" in link]
    (binder,) = [link for link in links if "mybinder.org" in link]
    assert colab.endswith(f"/blob/launch/{notebook}")
    assert f"/launch?urlpath=lab/tree/{notebook}" in binder
    assert any(link.endswith(f"/edit/main/{notebook}") for link in links)
    assert (ROOT / notebook).exists()


@built
def test_the_scoreboard_lists_every_claim_once():
    import nbformat

    text = (HTML / "chapters/scoreboard.html").read_text(encoding="utf-8")
    every = text.split('id="what-did-not-reproduce')[0]
    count = 0
    for path in (ROOT / "chapters").rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                count += 1
                sentence = output["data"]["text/plain"].split(": ")[-1]
                plain = (
                    re.sub(r"<[^>]+>", "", every)
                    .replace("&lt;", "<")
                    .replace("&gt;", ">")
                    .replace("&amp;", "&")
                )
                assert plain.count(sentence) == 1, sentence
    assert count == len(re.findall(r'<tr[^>]*>\s*<td><p><span class="verdict', every))


@built
def test_weights():
    shared = sum(p.stat().st_size for p in (HTML / "_static").rglob("*") if p.is_file())
    shared += sum((HTML / name).stat().st_size for name in ("searchindex.js", "objects.inv"))
    assert sum(p.stat().st_size for p in HTML.rglob("*") if p.is_file()) < 40e6
    assert shared < 5e6
    assert list(HTML.rglob("*.map")) == []
    for name in CHAPTERS:
        own = [HTML / name, *{(HTML / name).parent / image["src"] for image in _page(name).images}]
        assert sum(p.stat().st_size for p in own if p.exists()) < 1.5e6


@pytest.fixture(scope="module")
def address():
    """The built book on a local port."""
    handler = functools.partial(_Quiet, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]
        instance = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield instance
        instance.close()


class _Look:
    """A page with what went wrong on it; the network is blocked but for the book itself."""

    def __init__(self, browser, address, name, theme="light", width=1280):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme
        )
        self.page = self.context.new_page()
        self.trouble = []
        self.page.on(
            "console", lambda m: self.trouble.append(m.text) if m.type == "error" else None
        )
        self.page.on("pageerror", lambda e: self.trouble.append(str(e)))
        self.page.route("**/*", lambda route: self._only_the_book(route, address))
        self.page.add_init_script(
            f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')"
        )
        self.page.goto(address + name)
        self.page.wait_for_load_state("networkidle")

    def _only_the_book(self, route, address):
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            self.trouble.append(f"asks for {route.request.url}")
            route.abort()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@built
@browser_present
@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_sound_and_accessible(browser, address, name, theme):
    with _Look(browser, address, name, theme) as look:
        assert look.trouble == []
        assert look.page.evaluate("document.documentElement.dataset.theme") == theme
        broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
        look.page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        look.page.wait_for_timeout(200)
        assert look.page.evaluate(broken) == []
        results = Axe().run(look.page)
        found = [
            (v["id"], [node["target"] for node in v["nodes"]][:3])
            for v in results.response["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert found == []


@built
@browser_present
@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_phone_needs_no_sideways_scrolling(browser, address, name):
    with _Look(browser, address, name, width=390) as look:
        assert look.trouble == []
        assert look.page.evaluate("document.documentElement.scrollWidth") <= 390


@built
@browser_present
@pytest.mark.browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_mathematics_is_typeset_and_solutions_open(browser, address, name):
    with _Look(browser, address, name) as look:
        # the first formula may stand in the folded table of contents
        look.page.wait_for_selector("article mjx-container", timeout=10_000)
        assert look.page.locator("mjx-merror").count() == 0
        assert look.page.locator("figure img").count() >= 1
        summary = look.page.locator(
            "details.sd-dropdown summary, .admonition.dropdown button, .toggle-button"
        ).first
        hidden = look.page.locator(".solution.toggle-hidden, details:not([open])").count()
        assert hidden >= 3
        summary.scroll_into_view_if_needed()
        summary.click()
        assert (
            look.page.locator(".solution.toggle-hidden, details:not([open])").count() == hidden - 1
        )


@built
@browser_present
@pytest.mark.browser
def test_search_finds_a_phrase_of_each_chapter(browser, address):
    for name in CHAPTERS:
        title = re.search(r"<h1>(.*?)<a", (HTML / name).read_text(encoding="utf-8")).group(1)
        with _Look(browser, address, f"search.html?q={title.split()[0]}") as look:
            look.page.wait_for_selector("#search-results li a", timeout=10_000)
            links = look.page.locator("#search-results li a").evaluate_all(
                "a => a.map(x => x.getAttribute('href'))"
            )
            assert any(name in link for link in links), (title, links)


@built
@browser_present
@pytest.mark.browser
def test_search_puts_the_definition_first_and_the_chapter_second(browser, address):
    with _Look(browser, address, "chapters/index.html") as look:
        look.page.keyboard.press("Control+k")
        look.page.keyboard.type("temperature scaling")
        look.page.keyboard.press("Enter")
        found = look.page.locator("#search-results li")
        found.nth(1).locator(".context").wait_for(timeout=10_000)
        first, second = (found.nth(n).locator("a").get_attribute("href") for n in (0, 1))
        assert first.endswith("glossary.html#term-temperature-scaling")
        assert second.endswith("calibration/temperature_and_overlap.html")
        summary = found.first.locator(".context").inner_text()
        assert summary.startswith("temperature scaling: Dividing")


@built
def test_the_title_page_leads_everywhere_in_one_click():
    links = {urldefrag(link)[0] for link in _page("chapters/index.html").links}
    assert {name.removeprefix("chapters/") for name in CHAPTERS} <= links
    assert {"scoreboard.html", "atlas.html", "cite.html"} <= links
    text = (HTML / "chapters/index.html").read_text(encoding="utf-8").split("<article")[1]
    top = text.split("<h2>")[0]
    for link in ("scoreboard.html#what-did-not-reproduce-and-why", "atlas.html", "cite.html"):
        assert f'href="{link}"' in top


@built
def test_pages_load_neither_the_search_index_nor_mathjax_in_vain():
    for name in PAGES:
        loads = " ".join(_page(name).loads)
        assert "searchindex.js" not in loads
        assert "fontawesome.js" not in loads
        text = (HTML / name).read_text(encoding="utf-8")
        assert ("tex-chtml.js" in loads) == ('class="math' in text)
    assert "searchindex.js" in " ".join(_page("search.html").loads)


@built
@browser_present
@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "name", ["chapters/index.html", "chapters/atlas.html", "chapters/scoreboard.html"]
)
def test_nothing_jumps_while_a_page_loads_or_is_scrolled(browser, address, name, width):
    with _Look(browser, address, name, width=width) as look:
        look.page.add_init_script(SHIFTS)
        look.page.reload()
        look.page.wait_for_load_state("networkidle")
        look.page.evaluate(SCROLL)
        assert look.page.evaluate("window.shifts") < 0.1
        assert look.trouble == []


@built
@browser_present
@pytest.mark.browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_no_figure_moves_the_text_around_it(browser, address, name):
    # Formulas get their height from MathJax, which comes late; figures load as one scrolls.
    with _Look(browser, address, name, width=390) as look:
        look.page.evaluate("window.MathJax.startup.promise")
        look.page.evaluate(SHIFTS)
        look.page.evaluate("window.shifts = 0")
        look.page.evaluate(SCROLL)
        pictures = "[...document.images].filter(i => i.loading === 'lazy' && i.clientWidth)"
        assert look.page.evaluate(f"{pictures}.length")
        assert look.page.evaluate(f"{pictures}.every(i => i.complete)")
        assert look.page.evaluate("window.shifts") < 0.1


SHIFTS = """
window.shifts = 0;
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: 'layout-shift'});
"""
SCROLL = """async () => {
  const step = Math.max(window.innerHeight, document.documentElement.scrollHeight / 40);
  for (let y = 0; y < document.documentElement.scrollHeight; y += step) {
    window.scrollTo({top: y, behavior: 'instant'});
    await new Promise(done => setTimeout(done, 40));
  }
}"""


@built
@browser_present
@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_what_did_not_reproduce_is_read_without_sideways_scrolling(browser, address, width):
    with _Look(browser, address, "chapters/scoreboard.html", width=width) as look:
        assert look.trouble == []
        wide = "[...document.querySelectorAll('table.scoreboard')].filter("
        wide += "t => t.getBoundingClientRect().right > document.documentElement.clientWidth)"
        assert look.page.evaluate(f"{wide}.length") == 0
        assert [
            v["id"]
            for v in Axe().run(look.page).response["violations"]
            if v["impact"] in ("serious", "critical")
        ] == []


@built
@browser_present
@pytest.mark.browser
def test_a_page_can_be_walked_by_keyboard_alone(browser, address):
    with _Look(browser, address, CHAPTERS[0]) as look:
        look.page.keyboard.press("Tab")
        assert look.page.evaluate("document.activeElement.textContent").strip() == (
            "Skip to main content"
        )
        seen, unmarked = set(), []
        for _ in range(60):
            look.page.keyboard.press("Tab")
            place = look.page.evaluate(FOCUSED)
            seen.add(place["what"])
            if not place["marked"]:
                unmarked.append(place["what"])
        assert len(seen) > 30
        assert unmarked == []


FOCUSED = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  return {
    what: element.outerHTML.slice(0, 120),
    marked: box.width > 0 && (style.outlineStyle !== 'none' || style.boxShadow !== 'none'),
  };
}"""


@built
@browser_present
@pytest.mark.browser
def test_the_theme_switch_works(browser, address):
    with _Look(browser, address, PAGES[0]) as look:
        seen = set()
        for _ in range(3):
            look.page.locator("button.theme-switch-button:visible").first.click()
            seen.add(look.page.evaluate("document.documentElement.dataset.theme"))
        assert seen == {"light", "dark"}


@built
def test_the_scoreboard_offers_its_claims_as_files():
    folder = HTML / "chapters"
    records = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    with open(folder / "claims.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert records
    assert [row["claim"] for row in rows] == [record["claim"] for record in records]
    for record in records:
        path, anchor = urldefrag(record["link"])
        assert anchor in _page(path).ids


ATLAS = "chapters/atlas.html"
has_atlas = pytest.mark.skipif(ATLAS not in PAGES, reason="the contents name no atlas")


class _Atlas:
    """The atlas of an open page: its rows as a reader sees them, and its controls."""

    def __init__(self, look):
        self.page = look.page
        self.form = look.page.locator("form.atlas-controls")

    def rows(self):
        return self.page.locator("table.atlas tbody tr:visible").evaluate_all(
            "rows => rows.map(row => ({...row.dataset, id: row.id}))"
        )

    def choose(self, name, label):
        self.form.locator(f"select[name={name}]").select_option(label)
        return self.rows()

    def count(self):
        return self.form.locator("[aria-live=polite]").inner_text()


@built
@has_atlas
def test_the_atlas_is_whole_without_a_script():
    text = (HTML / ATLAS).read_text(encoding="utf-8")
    assert len(re.findall(r'<tr role="row" id="paper-\d+"', text)) == 206
    assert re.search(r'<form class="atlas-controls"[^>]* hidden>', text)


@built
@has_atlas
def test_every_covered_paper_leads_to_its_claims():
    text = (HTML / ATLAS).read_text(encoding="utf-8")
    rows = re.findall(r'<tr role="row" id="paper-\d+".*?</tr>', text, re.S)
    covered = [row for row in rows if 'data-status="covered"' in row]
    assert covered
    for row in covered:
        for link in re.findall(r'class="reference internal" href="([^"]+)"', row):
            path, anchor = urldefrag(link)
            assert unquote(anchor) in _page(f"chapters/{path}").ids
        assert "reference internal" in row
    bailong = next(row for row in rows if "Bailong" in row)
    assert 'data-status="untestable"' in bailong
    assert "quantization/int4_language_models.html#claim-" in bailong


@built
@has_atlas
@browser_present
@pytest.mark.browser
def test_the_atlas_filters_and_searches(browser, address):
    with _Look(browser, address, ATLAS) as look:
        atlas = _Atlas(look)
        assert atlas.form.is_visible()
        everything = atlas.rows()
        assert len(everything) == 206
        assert atlas.count() == "206 of 206 papers shown"
        shown = atlas.choose("part", "II: confidence")
        assert {row["part"] for row in shown} == {"II: confidence"}
        assert shown == [row for row in everything if row["part"] == "II: confidence"]
        assert atlas.count() == f"{len(shown)} of 206 papers shown"
        assert atlas.choose("status", "untestable") == []
        assert atlas.count() == "0 of 206 papers shown"
        atlas.form.get_by_role("button", name="Show all").click()
        assert atlas.rows() == everything
        covered = atlas.choose("status", "covered")
        assert covered == [row for row in everything if row["status"] == "covered"]
        atlas.form.get_by_role("button", name="Show all").click()
        holding = atlas.choose("verdict", "holds")
        assert holding == [row for row in covered if "holds" in row["verdicts"].split("|")]
        assert holding
        atlas.form.get_by_role("button", name="Show all").click()
        search = atlas.form.get_by_role("searchbox")
        search.fill("SCHRODINGER  bridge")
        assert [row["id"] for row in atlas.rows()] == ["paper-84"]
        search.press("Enter")
        assert [row["id"] for row in atlas.rows()] == ["paper-84"]
        assert look.trouble == []


@built
@has_atlas
@browser_present
@pytest.mark.browser
def test_the_atlas_sorts_by_keyboard(browser, address):
    with _Look(browser, address, ATLAS) as look:
        rows = look.page.locator("table.atlas tbody tr")
        titles = "rows => rows.map(row => row.cells[0].dataset.sort)"
        head = look.page.locator("table.atlas").get_by_role("columnheader", name="Paper")
        before = rows.evaluate_all(titles)
        head.get_by_role("button").focus()
        look.page.keyboard.press("Enter")
        upward = rows.evaluate_all(titles)
        assert head.get_attribute("aria-sort") == "ascending"
        assert upward != before
        assert sorted(upward) == sorted(before)
        assert upward[0].startswith("a ")
        look.page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") == "descending"
        assert rows.evaluate_all(titles) == upward[::-1]
        look.page.locator("table.atlas").get_by_role("columnheader", name="Part").get_by_role(
            "button"
        ).click()
        assert head.get_attribute("aria-sort") is None
        parts = [row["part"] for row in _Atlas(look).rows()]
        assert list(dict.fromkeys(parts)) == [
            "I: parameters",
            "II: confidence",
            "III: optimization pressure",
            "IV: bits",
            "V: compute",
            "later",
        ]
        assert parts == sorted(parts, key=list(dict.fromkeys(parts)).index)


@built
@has_atlas
@browser_present
@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_filtered_atlas_is_accessible(browser, address, width):
    with _Look(browser, address, ATLAS, theme="dark", width=width) as look:
        assert _Atlas(look).choose("part", "III: optimization pressure")
        look.page.get_by_role("button", name="Paper").click()
        results = Axe().run(look.page)
        assert [
            (v["id"], v["nodes"][0]["target"])
            for v in results.response["violations"]
            if v["impact"] in ("serious", "critical")
        ] == []


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_picture_states_its_size(name):
    for image in _page(name).images:
        if "_images" in image["src"]:
            assert int(image["width"]) > 0
            assert int(image["height"]) > 0
            assert "style" not in image


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_the_data_of_every_figure_is_offered_or_its_source_named(name):
    text = (HTML / name).read_text(encoding="utf-8")
    figures = re.findall(r'<figure class="enough-figure.*?</figure>', text, re.S)
    assert figures
    for figure in figures:
        found = re.search(r'class="figure-data">.*?href="([^"]+)"', figure, re.S)
        assert found, "neither data nor source"
        if found[1].endswith(".csv"):
            path = (HTML / name).parent / found[1]
            with open(path, encoding="utf-8", newline="") as file:
                head, *rows = list(csv.reader(file))
            assert rows
            assert {len(row) for row in rows} == {len(head)}
            assert path.stat().st_size < 1e6
        else:
            assert found[1].startswith("https://")


@built
@pytest.mark.parametrize("name", PAGES)
def test_every_page_says_what_produced_it(name):
    text = (HTML / name).read_text(encoding="utf-8")
    (footer,) = re.findall(r'<p class="page-provenance">(.*?)</p>', text)
    assert re.search(r"commit .*built on", footer)
    if name in CHAPTERS:
        for word in ("notebook executed on", "preset on", "Python 3.", "torch 2.", "numpy "):
            assert word in footer


@built
@pytest.mark.parametrize("name", PAGES)
def test_every_glossary_word_brings_its_definition(name):
    text = (HTML / name).read_text(encoding="utf-8")
    used = set(re.findall(r'href="[^"]*#(term-[^"]+)"[^>]*>\s*<span class="[^"]*std-term', text))
    assert used == set(re.findall(r'id="define-(term-[^"]+)"', text))


@built
def test_the_syllabus_names_every_chapter():
    text = (HTML / "chapters/syllabus.html").read_text(encoding="utf-8")
    ten, five = (
        re.findall(r'href="([\w/]+\.html)"', table)
        for table in re.findall(r'<table class="[^"]*syllabus.*?</table>', text, re.S)
    )
    assert sorted(f"chapters/{name}" for name in ten) == sorted(CHAPTERS)
    assert set(five) <= set(ten)
    assert "a time not measured" not in text
    for name in ten:
        aims = text.split('class="syllabus-chapter rubric"')[1:]
        (own,) = [part for part in aims if f'href="{name}"' in part.split("</p>")[0]]
        assert own.count("<li>") >= 2
        assert "You need" in own


@built
@browser_present
@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_definition_shows_on_focus_and_goes_on_escape(browser, address, width):
    name = next(name for name in CHAPTERS if "define-term-" in (HTML / name).read_text())
    with _Look(browser, address, name, width=width) as look:
        word = look.page.locator("article a.term").first
        anchor = word.get_attribute("href").partition("#")[2]
        definition = look.page.locator(f"[id='define-{anchor}'] p").first.text_content()
        box = look.page.get_by_role("tooltip")
        assert box.count() == 0
        word.focus()
        assert definition.split()[0] in box.inner_text()
        assert word.get_attribute("aria-describedby") == box.get_attribute("id")
        place = box.bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= width
        assert [
            v["id"]
            for v in Axe().run(look.page).response["violations"]
            if v["impact"] in ("serious", "critical")
        ] == []
        look.page.keyboard.press("Escape")
        assert box.count() == 0
        word.hover()
        assert box.is_visible()
        look.page.mouse.move(0, 0)
        box.wait_for(state="detached", timeout=2000)


@built
@browser_present
@pytest.mark.browser
def test_a_printed_chapter_is_the_text_alone(browser, address):
    with _Look(browser, address, CHAPTERS[0], theme="dark") as look:
        look.page.emulate_media(media="print")
        visible = "s => [...document.querySelectorAll(s)].filter(e => e.offsetParent).length"
        for gone in (
            ".bd-sidebar-primary",
            ".bd-sidebar-secondary",
            ".bd-header-article",
            ".copybtn",
        ):
            assert look.page.evaluate(visible, gone) == 0, gone
        assert look.page.evaluate(visible, "article h1, article figure, .claim") > 5
        hidden = "[...document.querySelectorAll('.solution *')].filter(e => e.closest('section')"
        hidden += " && getComputedStyle(e).visibility === 'hidden').length"
        assert look.page.evaluate(hidden) == 0
        background = "getComputedStyle(document.body).backgroundColor"
        assert look.page.evaluate(background) == "rgb(255, 255, 255)"
        color = "getComputedStyle(document.querySelector('article p')).color"
        assert look.page.evaluate(color) == "rgb(0, 0, 0)"
        assert look.page.pdf(format="A4").startswith(b"%PDF")
