"""The registry file: complete, well formed, and every checksum with its place."""

from __future__ import annotations

import json
import re

import pytest

from enough.data import describe, registry
from enough.data.catalog import find_entry, read_registry

ENTRIES = {name: find_entry(name)[0] for name in registry().index}
FILES = find_entry("mnist")[1]


def test_names_that_the_book_uses():
    assert {"mnist", "fashion_mnist", "cifar10", "tinyshakespeare"} <= set(ENTRIES)


def test_every_file_has_a_checksum_and_its_place():
    for file in FILES:
        assert file.checksums, file.filename
        for checksum in file.checksums:
            assert re.search(r"github\.com/|computed from", checksum.read_in), file.filename


def test_md5_stands_alone_nowhere():
    for file in FILES:
        assert any(c.algorithm == "sha256" for c in file.checksums), file.filename


def test_addresses_are_secure_and_fixed():
    for file in FILES:
        for url in file.urls:
            assert url.startswith("https://")
            if "github" in url:
                assert re.search(r"githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", url), url


def test_digests_of_different_files_differ():
    values = [c.value for file in FILES for c in file.checksums]
    assert len(values) == len(set(values))


def test_file_names_are_unique_in_an_entry():
    for entry in ENTRIES.values():
        names = [file.filename for file in entry.files]
        assert len(names) == len(set(names))


def test_image_sets_have_images_and_labels_for_each_split():
    for name in ("mnist", "fashion_mnist"):
        entry = ENTRIES[name]
        assert entry.splits == ("train", "test")
        assert len(entry.classes) == 10
        for split in entry.splits:
            roles = sorted(f.role for f in entry.files if f.split == split)
            assert roles == ["images", "labels"]


def test_listing():
    table = registry()
    assert table.loc["mnist", "splits"] == "train, test"
    assert table.loc["mnist", "files"] == 4
    assert table.loc["mnist", "download"]
    assert not table.loc["porian_resolving", "download"]
    assert (table["title"].str.len() > 10).all()
    assert (table["license"].str.len() > 2).all()


def test_describe_tells_all():
    for name, entry in ENTRIES.items():
        text = describe(name)
        for part in (entry.title, entry.source, entry.license, entry.citation, entry.note):
            assert part in text
        for file in entry.files:
            for part in (file.filename, file.made, *file.urls):
                assert part in text
            for checksum in file.checksums:
                assert checksum.value in text
                assert checksum.read_in in text
        for column in entry.columns:
            assert column in text
    with pytest.raises(ValueError, match="mnist"):
        describe("nothing")


def entry(**changes):
    file = {
        "filename": "a.csv",
        "urls": ["https://example.org/a.csv"],
        "checksums": [{"algorithm": "sha256", "of": "file", "value": "0" * 64, "read_in": "here"}],
    }
    file.update(changes.pop("file", {}))
    fields = {"title": "t", "reader": "csv", "source": "s", "license": "l", "files": [file]}
    return {"format": 1, "datasets": {"odd": {**fields, **changes}}}


def digest(**changes):
    checksum = {"algorithm": "sha256", "of": "file", "value": "0" * 64, "read_in": "here"}
    return entry(file={"checksums": [{**checksum, **changes}]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "format 1"),
        ({"format": 2, "datasets": {}}, "format 1"),
        (entry(reader="pickle"), "'odd' is malformed: reader: .*'pickle'"),
        (entry(files=[]), "at least one file"),
        (entry(colour="red"), "colour"),
        (entry(file={"filename": "../a"}), "relative path"),
        (entry(file={"filename": "/a"}), "relative path"),
        (entry(file={"filename": "a\\b"}), "relative path"),
        (entry(file={"filename": ""}), "relative path"),
        (entry(file={"urls": []}), "expected urls, or made"),
        (digest(value="0" * 63), "64 lower-case hexadecimal"),
        (digest(value="G" * 64), "64 lower-case hexadecimal"),
        (digest(algorithm="crc32"), "algorithm"),
        (digest(of="title"), "of: expected one of"),
        (digest(read_in=""), "place where the checksum was read"),
    ],
)
def test_malformed_registry(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_registry(path)
