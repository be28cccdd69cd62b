"""Two builds are compared byte by byte, and only dates are looked past."""

import pytest

from enough.book.reproducible import differences, without_dates

PAGE = (
    '<p class="page-provenance">commit <code>abc</code> · built on '
    '<span class="measured" data-measured="">{day}</span>.</p>'
    '<p class="last-updated">\n  Last updated on {day}.\n  <br/>\n</p><p>{text}</p>'
)


@pytest.fixture
def books(tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder, day in zip(folders, ("2026-01-30", "2026-01-31"), strict=True):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "page.html").write_text(PAGE.format(day=day, text="same"))
        (folder / "picture.png").write_bytes(b"\x89PNG")
    return folders


def test_dates_alone_are_no_difference(books):
    assert list(differences(*books)) == []


def test_a_date_in_the_text_is_a_difference():
    assert without_dates(b"<p>2026-01-30</p>") == b"<p>2026-01-30</p>"


def test_what_differs_is_named_with_its_place(books):
    page = books[1] / "a" / "page.html"
    page.write_text(PAGE.format(day="2026-01-31", text="some"))
    (books[1] / "picture.png").write_bytes(b"\x89PNGx")
    first, second = differences(*books)
    assert first.startswith("a/page.html: differs at byte ")
    assert "me</p>" in first
    assert second.startswith("picture.png: differs at byte 4")


def test_a_file_on_one_side_is_named(books):
    (books[0] / "more.js").write_text("")
    (books[1] / "less.js").write_text("")
    assert list(differences(*books)) == [
        "less.js: in the second build only",
        "more.js: in the first build only",
    ]
