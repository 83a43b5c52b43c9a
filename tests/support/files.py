"""Files of the tests: where they are made, and what they hold."""

import hashlib
from pathlib import Path


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
