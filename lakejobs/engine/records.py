"""CSV records: what a delivered file holds, and a reader that accounts for every line of it.

A record has fields separated by commas; a line ends with LF, CR or CRLF; empty lines are ignored. A field may be quoted
with `"` (blanks around the quotes are allowed), and may then contain commas, line ends, and `""` for a quote. A quote
inside an unquoted field is an ordinary character. Surplus empty fields at the end are ignored. A line with too few or
too many fields, or with broken quoting, is malformed: its raw text is kept, and reading continues with the next line.
A contract can name another delimiter and another quote; what it says of the encoding, `unpacking` has dealt with.

The engine reads plain files, many times faster than this module. `inspect` decides which files are plain; later, an
independent line count shows whether the engine saw the same records. All other files are read here.
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

from lakejobs.engine import unpacking
from lakejobs.model import Contract, Inspection

CHUNK = 4 << 20
MOST_PLAIN_COLUMNS = 200
# The engine keeps ten kilobytes of memory for each malformed line, so it does not get files with many of them: more
# than this many lines without a quote, and with more or fewer commas than the header, in the first bytes of each chunk.
MOST_PLAIN_TROUBLES = 200
SAMPLE = 64 << 10
LONGEST_HEADER = 32 << 20
# A quoted field longer than this many characters is taken as never closed: its first line is malformed.
LONGEST_QUOTED = 1 << 20
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
EMPTY_LINE = re.compile(rb"\n\n")
USUAL = Contract()


class Syntax(NamedTuple):
    """What separates the fields of a line."""

    delimiter: str
    quote: str
    """'' if there is none."""
    blanks: re.Pattern[str]
    inside_quotes: re.Pattern[str]
    after_quotes: re.Pattern[str]


@functools.cache
def syntax_of(contract: Contract) -> Syntax:
    delimiter, quote = re.escape(contract.delimiter), re.escape(contract.quote)
    blanks = "[ ]*+" if contract.delimiter == "\t" else r"[ \t]*+"
    inside = rf"[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+" if quote else ""
    after = rf"{blanks}(?:({delimiter})|\Z)"
    return Syntax(contract.delimiter, contract.quote, *map(re.compile, (blanks, inside, after)))


def content_hash(source: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def inspect(
    source: BinaryIO, known_columns: Sequence[str], contract: Contract = USUAL, packed: str = "", declared_in: str = ""
) -> Inspection:
    """Find the content hash, the encoding, the line ends and the header of a file.

    `packed`: see `Inspection`. `declared_in`: the path of the domain's contracts.
    """
    if not unpacking.is_needed(packed, contract):
        return _inspect(source, known_columns, contract, declared_in)
    sha256 = content_hash(source)
    source.seek(0)
    try:
        with unpacking.unpacked(source, packed, contract) as text:
            found = _inspect(text, known_columns, contract, declared_in)
    except unpacking.DamagedError as error:
        found = Inspection(sha256, "utf-8", "LF", (), 0, False, False, f"it {error}", contract=contract)
    return dataclasses.replace(found, sha256=sha256, packed=packed)


def _inspect(source: BinaryIO, known_columns: Sequence[str], contract: Contract, declared_in: str) -> Inspection:
    """Read every byte of a text once."""
    delimiter, quote = contract.delimiter.encode(), contract.quote.encode()
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    utf8, quoted, tabs, zero = True, False, False, False
    lf = cr = crlf = blank = 0
    start = last = b""
    samples, commas = 0, Counter[int]()
    for chunk in _hashed(source, digest):
        sample = chunk[:SAMPLE]
        samples += 1
        commas.update(line.count(delimiter) for line in sample.splitlines() if line and not (quote and quote in line))
        start = start or chunk
        zero = zero or b"\0" in chunk
        if utf8 and not (chunk.isascii() and decoder.getstate()[0] == b""):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                utf8 = False
        lf += chunk.count(b"\n")
        # Searching is faster than counting, and most files have no empty line.
        if EMPTY_LINE.search(chunk):
            blank += chunk.count(b"\n\n")
        if b"\r" in chunk:
            cr += chunk.count(b"\r")
            crlf += chunk.count(b"\r\n")
            blank += chunk.count(b"\r\n\r\n")
        quoted = quoted or (quote != b"" and quote in chunk)
        tabs = tabs or b"\t" in chunk
        # Pairs that straddle two chunks.
        if last:
            seam = last[-1:] + chunk[:1]
            crlf += seam == b"\r\n"
            blank += seam == b"\n\n"
        last = chunk
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        utf8 = False
    encoding = "utf-8" if utf8 or contract.encoding else "windows-1252"
    newline = "LF" if cr == 0 else "CRLF" if cr == crlf == lf else "mixed"
    header: tuple[str, ...] = ()
    reason = None
    if zero:
        reason = _not_text(start, declared_in)
    elif not utf8 and contract.encoding:
        reason = f"it is not {contract.encoding} text, as its contract says"
    elif start:
        header = _aliased(_read_header(source, encoding, syntax_of(contract)), contract)
        reason = _foreign(header, known_columns, contract, declared_in) if header else None
    lines = lf - blank + (0 if last[-1:] in (b"\n", b"") else 1)
    plain = (
        reason is None
        and utf8
        and newline != "mixed"
        and not (quoted and tabs)
        and not start.startswith((b"\n", b"\r"))
        and 1 < len(header) <= MOST_PLAIN_COLUMNS
        and not any("\n" in name for name in header)
        # A sample begins and ends in the middle of a line.
        and commas.total() - commas[len(header) - 1] <= MOST_PLAIN_TROUBLES + 2 * samples
    )
    header = () if reason else header
    return Inspection(digest.hexdigest(), encoding, newline, header, lines, quoted, plain, reason, contract=contract)


def count_lines(source: BinaryIO, length: int) -> int:
    """The number of lines that are not empty, in the next `length` bytes."""
    found = 0
    while length > 0 and (line := source.readline()):
        length -= len(line)
        found += bool(line.strip(b"\r\n"))
    return found


def _hashed(source: BinaryIO, digest: Any) -> Iterator[bytes]:
    """A file in chunks. Hashing releases the GIL, so it runs while a chunk is being inspected."""
    with ThreadPoolExecutor(1) as pool:
        hashed: Future[None] | None = None
        while chunk := source.read(CHUNK):
            if hashed:
                hashed.result()
            if len(chunk) == CHUNK:
                hashed = pool.submit(digest.update, chunk)
            else:  # not worth a thread
                digest.update(chunk)
            yield chunk


def _aliased(header: tuple[str, ...], contract: Contract) -> tuple[str, ...]:
    """A header with the domain's names for what the contract's aliases stand for, unless these are there themselves."""
    aliases, there = dict(contract.aliases), {name.casefold() for name in header}
    return tuple(
        aliases[name.casefold()] if name.casefold() in aliases and aliases[name.casefold()] not in there else name
        for name in header
    )


def _read_header(source: BinaryIO, encoding: str, syntax: Syntax) -> tuple[str, ...]:
    """The fields of the first record of a file, blanks trimmed."""
    source.seek(0)
    start = source.read(CHUNK)
    while b"\n" not in start.lstrip(b"\r\n") and len(start) < LONGEST_HEADER and (more := source.read(CHUNK)):
        start += more
    for fields, raw in _records(_lines(io.BytesIO(start), encoding), 0, syntax):
        return tuple(name.strip() for name in (fields or raw.split(syntax.delimiter)))
    return ()


def _not_text(start: bytes, declared_in: str) -> str:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"it is UTF-16 text; save it as UTF-8{_or_declare('encoding', 'utf-16', declared_in)}"
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip; let its name end in .csv.gz"
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return "it is compressed with zstd; let its name end in .csv.zst"
    if start.startswith(b"PK"):
        return "it is a ZIP archive or an Excel workbook; save it as CSV, or let the workbook's name end in .xlsx"
    return "it contains NUL bytes, so it is not text"


def _or_declare(name: str, value: str, declared_in: str) -> str:
    return f", or declare {name} = {json.dumps(value)} in {declared_in}" if declared_in else ""


def _foreign(header: Sequence[str], known_columns: Sequence[str], contract: Contract, declared_in: str) -> str | None:
    folded = {name.casefold() for name in header}
    if folded & set(known_columns):
        return None
    known = ", ".join(known_columns[:4])
    usual = DELIMITERS.get(contract.delimiter, repr(contract.delimiter))
    for delimiter, name in DELIMITERS.items():
        parts = {part.strip(" \t\"'").casefold() for text in header for part in text.split(delimiter)}
        if parts & set(known_columns) and delimiter != contract.delimiter:
            return (
                f"its fields are separated by {name}; export it with {usual}"
                f"{_or_declare('delimiter', delimiter, declared_in)}"
            )
    shown = ", ".join(header)
    return f"its header has no column of the domain ({known}, …); it begins with: {shown[:80]!r}"


# ------------------------------------------------------------------------------------------------ reading


def read(source: BinaryIO, inspection: Inspection) -> Iterator[tuple[list[str] | None, str]]:
    """The records below the header: (fields, ''), or (None, raw text) for a malformed line."""
    lines, syntax = _lines(source, inspection.encoding), syntax_of(inspection.contract)
    return itertools.islice(_records(lines, len(inspection.header), syntax), 1, None)


def _lines(source: BinaryIO, encoding: str) -> Iterator[str]:
    """Physical lines, each with its LF, CR or CRLF."""
    if encoding == "utf-8":
        return iter(io.TextIOWrapper(source, "utf-8-sig", errors="replace", newline=""))
    return iter(io.TextIOWrapper(source, encoding, errors="c1-controls", newline=""))


class _Ahead:
    """Physical lines, with lookahead."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._seen: list[str] = []
        self._taken = 0
        self.line = 0
        """The number of the last line that was taken, from 1 on."""

    def take(self) -> str:
        """The next line; '' at the end."""
        self.line += 1
        if self._taken == len(self._seen):
            return next(self._lines, "")
        self._taken += 1
        return self._seen[self._taken - 1]

    def look(self, index: int) -> str:
        """The line `index` lines after the next one, without taking it; '' past the end."""
        while self._taken + index >= len(self._seen):
            line = next(self._lines, "")
            if not line:
                return ""
            self._seen.append(line)
        return self._seen[self._taken + index]

    def drop(self, count: int) -> str:
        """Take lines that were looked at, and return them."""
        lines = "".join(self._seen[self._taken : self._taken + count])
        self._taken += count
        self.line += count
        if self._taken * 2 > len(self._seen):
            del self._seen[: self._taken]
            self._taken = 0
        return lines


def _records(lines: Iterator[str], width: int, syntax: Syntax) -> Iterator[tuple[list[str] | None, str]]:
    """Records of `width` fields, or of any number if `width` is 0."""
    for fields, text, _ in _placed(lines, width, syntax):
        yield fields, "" if fields is not None else text


def _placed(lines: Iterator[str], width: int, syntax: Syntax) -> Iterator[tuple[list[str] | None, str, int]]:
    """The same records as (fields or None, raw text, number of the first line)."""
    ahead, delimiter, quote = _Ahead(lines), syntax.delimiter, syntax.quote
    while line := ahead.take():
        text, number = line.rstrip("\r\n"), ahead.line
        if not text:
            continue
        fields, more = _split(line, ahead, syntax) if quote and quote in text else (text.split(delimiter), "")
        if fields is not None and width:
            while len(fields) > width and not fields[-1]:
                fields.pop()
        if fields is not None and width and len(fields) != width:
            fields = None
        yield fields, (line + more).rstrip("\r\n") if more else text, number


class Found(NamedTuple):
    """A record as it was delivered."""

    record: int
    """Its number: 1 is the first below the header."""
    line: int
    """The number of its first line, from 1 on; the header has one, and empty lines do too."""
    text: str
    """Its raw text, without the line end."""
    fields: list[str] | None
    """None if it is malformed."""


def find(source: BinaryIO, inspection: Inspection, wanted: Collection[int]) -> Iterator[Found]:
    """Some records of a file, by their numbers."""
    width, last, syntax = len(inspection.header), max(wanted, default=0), syntax_of(inspection.contract)
    if not inspection.plain:
        for record, (fields, text, line) in enumerate(_placed(_lines(source, inspection.encoding), width, syntax)):
            if record > last:
                return
            if record in wanted:
                yield Found(record, line, text, fields)
        return
    record = -1  # each line of a plain file is a record, apart from the header and empty ones
    for number, bytes_ in enumerate(source, 1):
        if content := bytes_.rstrip(b"\r\n"):
            record += 1
            if record > last:
                return
            if record in wanted:
                text = content.decode("utf-8", "replace")
                ((fields, _),) = _records(iter([text]), width, syntax)
                yield Found(record, number, text, fields)


def _split(line: str, ahead: _Ahead, syntax: Syntax) -> tuple[list[str] | None, str]:
    """The fields of the record that begins with this line, or None if its quoting is broken; and its other lines.

    Takes the lines that a quoted field spans. If its quoting is broken, takes none: they are then read as records of
    their own.
    """
    delimiter, quote, blanks, inside_quotes, after_quotes = syntax
    fields: list[str] = []
    value: list[str] | None = None  # parts of a quoted field that is not closed yet
    position = looked = length = 0
    while True:
        text = line.rstrip("\r\n")
        while True:
            if value is None:
                start = blanks.match(text, position).end()  # type: ignore[union-attr]
                if not text.startswith(quote, start):
                    end = text.find(delimiter, position)
                    fields.append(text[position:] if end < 0 else text[position:end])
                    if end < 0:
                        return fields, ahead.drop(looked)
                    position = end + 1
                    continue
                value, position = [], start + 1
            end = inside_quotes.match(text, position).end()  # type: ignore[union-attr]
            value.append(text[position:end])
            if end == len(text):
                break
            after = after_quotes.match(text, end + 1)
            if after is None:
                return None, ""
            fields.append("".join(value).replace(quote + quote, quote))
            if not after[1]:
                return fields, ahead.drop(looked)
            value, position = None, after.end()
        value.append(line[len(text) :])
        length += len(line)
        line, position = ahead.look(looked), 0
        looked += 1
        if not line or length > LONGEST_QUOTED:
            return None, ""


def json_member(name: str, value: str) -> str:
    """`"name": "value"`, in the same form as SQL writes it."""
    return f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"


def match(header: Sequence[str], columns: Iterable[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Positions of the domain's columns in a header, and of all others, under unique names.

    Names match regardless of case. If a name occurs twice, the first one wins.
    """
    known = set(columns)
    by_name: dict[str, int] = {}
    others: dict[str, int] = {}
    for index, name in enumerate(header):
        folded = name.casefold()
        if folded in known and folded not in by_name:
            by_name[folded] = index
            continue
        label, copies = name or f"column {index + 1}", 2
        while label in others or label in known:
            label, copies = f"{name}_{copies}", copies + 1
        others[label] = index
    return by_name, others
