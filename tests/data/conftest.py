"""A small web site, a registry and a cache of their own for the tests of the loader."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest


class Site:
    """Serve ``answers[path]``: a list of responses, the last one repeated.

    A response is bytes, or a dictionary with ``body`` and any of ``status``, ``length`` (the
    length to promise), ``gate`` (an event to wait for halfway).
    """

    def __init__(self):
        self.answers = {}
        self.hits = Counter()
        self.halfway = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hit = site.hits[self.path]
                site.hits[self.path] += 1
                answers = site.answers[self.path]
                answer = answers[min(hit, len(answers) - 1)]
                if isinstance(answer, bytes):
                    answer = {"body": answer}
                body = answer["body"]
                self.send_response(answer.get("status", 200))
                self.send_header("Content-Length", str(answer.get("length", len(body))))
                self.end_headers()
                half = len(body) // 2
                self.wfile.write(body[:half])
                self.wfile.flush()
                if "gate" in answer:
                    site.halfway.set()
                    answer["gate"].wait(30)
                self.wfile.write(body[half:])

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def site():
    web = Site()
    yield web
    web.close()


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """A cache of its own, no data folder, no proxy, and no waiting between attempts."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("ENOUGH_CACHE", str(cache))
    monkeypatch.delenv("ENOUGH_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    return cache


@pytest.fixture
def write_registry(tmp_path):
    """Write a registry of data sets given as ``name=(reader, files)`` and return its path."""

    def write(**datasets):
        path = tmp_path / "registry.json"
        entries = {
            name: {
                "title": f"{name}, for a test",
                "reader": reader,
                "source": "this test",
                "license": "none",
                "files": files,
                **extra,
            }
            for name, (reader, files, extra) in datasets.items()
        }
        path.write_text(json.dumps({"format": 1, "datasets": entries}), encoding="utf-8")
        return path

    return write
