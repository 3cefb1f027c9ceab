"""Footers: each of the lake's Parquet files records what it was built from, and its checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any, BinaryIO

from lakejobs.storage import MissingError, Store

NO_CHECKSUM = "0" * 64
FOOTER_START = b'{"checksum": "'


def footer_text(content: dict[str, Any]) -> str:
    """The footer's `lakejobs` entry, before `seal` puts in the checksum."""
    return json.dumps({"checksum": NO_CHECKSUM, **content})


def seal(path: str) -> None:
    """Put the checksum of a file into its footer, before the file is published.

    It is the SHA-256 of the file with sixty-four zeros in place of the checksum.
    """
    with open(path, "r+b") as handle:
        start = _footer_position(handle)
        if start is None:
            raise ValueError(f"{path} has no lakejobs footer")
        position = start + len(FOOTER_START)
        checksum = _checksum(handle, position)
        handle.seek(position)
        handle.write(checksum.encode())


def read_footer(store: Store, path: str, *, verify: bool = True) -> dict[str, Any] | None:
    """The `lakejobs` entry of a Parquet footer; None if the file is missing, damaged, or not written by lakejobs.

    Reads the whole file once to verify the checksum, unless that has been done.
    """
    with contextlib.suppress(MissingError, ValueError, KeyError, TypeError), store.reading(path) as handle:
        start = _footer_position(handle)
        if start is None:
            return None
        handle.seek(start)
        text = handle.read().decode("utf-8", "replace")
        content, _ = json.JSONDecoder().raw_decode(text)
        if not verify or content["checksum"] == _checksum(handle, start + len(FOOTER_START)):
            return dict(content)
    return None


def _footer_position(handle: BinaryIO) -> int | None:
    """Where our entry begins in a Parquet file: in the footer, whose length precedes the last four bytes."""
    size = handle.seek(0, os.SEEK_END)
    if size < 12:
        return None
    handle.seek(size - 8)
    tail = handle.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length > size - 12:
        return None
    handle.seek(size - 8 - length)
    found = handle.read(length).find(FOOTER_START)
    return None if found < 0 else size - 8 - length + found


def _checksum(handle: BinaryIO, position: int) -> str:
    digest = hashlib.sha256()
    handle.seek(0)
    left = position
    while left and (chunk := handle.read(min(left, 1 << 20))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(NO_CHECKSUM.encode())
    handle.seek(position + len(NO_CHECKSUM))
    while chunk := handle.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
