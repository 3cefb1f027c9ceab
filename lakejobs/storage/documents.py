"""Pages, and JSON files with checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any, TextIO

from lakejobs.messages import LakeError
from lakejobs.storage import MissingError, Store

START = len(b'{"checksum":"') + 64 + len(b'",')


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
        handle.write(_begin(body) + body)


def read_json(store: Store, path: str) -> dict[str, Any] | None:
    """Read what `write_json` wrote; None if the file is missing or damaged."""
    try:
        with store.reading(path) as handle:
            text = handle.read()
    except MissingError:
        return None
    begin, body = text[:START], text[START:]
    if begin != _begin(body):
        return None
    content: dict[str, Any] = json.loads(b"{" + body)
    return content


def _begin(body: bytes) -> bytes:
    """What precedes the rest of a document: the checksum of that rest."""
    return b'{"checksum":"' + hashlib.sha256(body).hexdigest().encode() + b'",'
