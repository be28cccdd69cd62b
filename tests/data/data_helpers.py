"""What several test modules of this folder share."""

from __future__ import annotations

import hashlib


def checksum(content, of="file", algorithm="sha256"):
    return {
        "algorithm": algorithm,
        "of": of,
        "value": hashlib.new(algorithm, content).hexdigest(),
        "read_in": "this test",
    }
