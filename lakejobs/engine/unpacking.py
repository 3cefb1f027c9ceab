"""Deliveries that are not UTF-8 text as they are: unpacked or converted to it, before anything else reads them.

gzip and zstd files are unpacked. Of an Excel workbook, one sheet becomes a CSV file: one line for each row of the
sheet, whole numbers as `3`, not `3.0`, dates and times in ISO 8601. Text in an encoding that the contract names becomes
UTF-8.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import datetime as dt
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from lakejobs.model import Contract
from lakejobs.storage.local import temporary

CHUNK = 4 << 20


class DamagedError(Exception):
    """A file cannot be unpacked or decoded. The message says why, after `it `."""


def _c1_control(error: Any) -> tuple[str, int]:
    """Windows-1252 leaves five bytes undefined; read them as control characters, as in Latin-1."""
    return chr(error.object[error.start]), error.start + 1


codecs.register_error("c1-controls", _c1_control)


def is_needed(packed: str, contract: Contract) -> bool:
    """Whether a file has to be unpacked or converted. `packed`: see `Inspection.packed`."""
    return bool(packed) or contract.encoding not in ("", "utf-8")


@contextlib.contextmanager
def unpacked(source: BinaryIO, packed: str, contract: Contract) -> Iterator[BinaryIO]:
    """The text of a file as UTF-8; the file itself if it needs nothing. Raises DamagedError."""
    if not is_needed(packed, contract):
        yield source
        return
    with temporary(chunks(source, packed, contract)) as text:
        yield text


def chunks(source: BinaryIO, packed: str, contract: Contract) -> Iterator[bytes]:
    """The text of a file as UTF-8, in pieces. Raises DamagedError."""
    if packed == "excel":
        yield from _lines_of_sheet(source, contract.sheet)
        return
    with contextlib.ExitStack() as stack:
        data = source
        if packed == "gzip":
            data = cast(BinaryIO, stack.enter_context(gzip.open(source)))
        elif packed == "zstd":
            import pyarrow as pa

            data = cast(BinaryIO, io.BufferedReader(cast(Any, pa.CompressedInputStream(_StaysOpen(source), "zstd"))))
        try:
            yield from _decoded(data, contract.encoding)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedError(f"cannot be unpacked: {error}") from None
        except OSError as error:
            if packed != "zstd" or error.errno:
                raise
            raise DamagedError(f"cannot be unpacked: {str(error).splitlines()[0]}") from None


class _StaysOpen(io.RawIOBase):
    """A file that is not closed with whatever reads it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._source.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)


def _decoded(data: BinaryIO, encoding: str) -> Iterator[bytes]:
    if encoding in ("", "utf-8"):
        while chunk := data.read(CHUNK):
            yield chunk
        return
    decoder = codecs.getincrementaldecoder(encoding)("c1-controls" if encoding == "cp1252" else "strict")
    is_last = False
    while not is_last:
        chunk = data.read(CHUNK)
        is_last = not chunk
        try:
            text = decoder.decode(chunk, final=is_last)
        except UnicodeError:
            raise DamagedError(f"is not {encoding} text, as its contract says") from None
        yield text.encode("utf-8", "replace")


def _lines_of_sheet(source: BinaryIO, sheet: str) -> Iterator[bytes]:
    import python_calamine as calamine

    try:
        workbook = calamine.load_workbook(cast(Any, source))
        names = workbook.sheet_names
        if not names or (sheet and sheet not in names):
            raise DamagedError(f"has no sheet {sheet or 'at all'}; it has {', '.join(names) or 'none'}")
        rows = workbook.get_sheet_by_name(sheet or names[0]).to_python(skip_empty_area=False)
    except (calamine.CalamineError, ValueError) as error:
        raise DamagedError(f"cannot be read as an Excel workbook: {error}") from None
    line = io.StringIO()
    write = csv.writer(line, lineterminator="\n").writerow
    for row in rows:
        values = [_cell(value) for value in row]
        if any(values):
            write(values)
        else:
            line.write("\n")  # so that the number of a line is the number of the row
        yield line.getvalue().encode("utf-8", "replace")
        line.seek(0)
        line.truncate()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    return str(value)
