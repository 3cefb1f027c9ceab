"""Pages, and JSON files with checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any, TextIO

from lakejobs.messages import LakeError
from lakejobs.storage import MissingError, Store


@contextlib.contextmanager
def writing(store: Store, path: str) -> Iterator[TextIO]:
    """Publish what is written to the yielded file."""
    with store.publish(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        yield handle


def write_text(store: Store, path: str, text: str) -> None:
    """Publish a page."""
    with writing(store, path) as handle:
        handle.write(text)


def read_text(store: Store, path: str, most: int) -> str | None:
    """Up to `most` bytes of a page as text; None if it cannot be read."""
    try:
        with store.reading(path) as handle:
            return handle.read(most).decode("utf-8", "replace")
    except LakeError:
        return None


def write_json(store: Store, path: str, content: dict[str, Any], *, durable: bool = True) -> None:
    """Publish a JSON object with its checksum as the first member."""
    body = json.dumps(content, separators=(",", ":")).encode()[1:]
    with store.publish(path, durable=durable) as temporary, open(temporary, "wb") as handle:
        handle.write(b'{"checksum":"' + hashlib.sha256(body).hexdigest().encode() + b'",' + body)


def read_json(store: Store, path: str) -> dict[str, Any] | None:
    """Read what `write_json` wrote; None if the file is missing or damaged."""
    try:
        with store.reading(path) as handle:
            text = handle.read()
    except MissingError:
        return None
    start = len(b'{"checksum":"') + 64 + 2
    if hashlib.sha256(text[start:]).hexdigest().encode() != text[13:77]:
        return None
    content: dict[str, Any] = json.loads(text)
    return content
