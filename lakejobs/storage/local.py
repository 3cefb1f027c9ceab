"""The lake's storage: where every file is, and the only code that lists, reads, publishes, removes or locks.

    local_output/<domain>/<prefix>_YYYYMMDD_HHMMSS.csv                    staging, written by others or by Staging
    datalake/bronze/<domain>/year=YYYY/month=MM/day=DD/*.csv              by landing date, byte for byte; see Deliveries
    datalake/bronze/<domain>/year=YYYY/month=MM/day=DD/_manifest.json     what those files hold (a cache)
    datalake/silver/<domain>/year=YYYY/month=MM/day=DD/<domain>.parquet   by event date (UTC), one file a partition
    datalake/gold/<table>/<table>_YYYYMMDD_HHMMSS_ffffff.parquet          snapshots; the newest sorts last
    datalake/quality/validations/<domain>/*.json                          Great Expectations results
    datalake/quality/validations/<domain>/_index.json                     what the index shows of them (a cache)
    datalake/quality/data_docs/                                           the Data Docs site
    datalake/quality/report.html                                          the lake report
    datalake/_facts_<domain>.json                                         what was last seen of each file (a cache)
    datalake/_lock_<domain>, _lock_data_docs                              held while a run writes to it

Names that begin with `_` or `.` are ours and never end in `.parquet` or `.csv`, so a reader's glob meets data only.
A file appears under its final name whole or not at all: it is written beside it as `_tmp-…`, flushed to the disk,
then renamed. Parquet files carry their lineage and a checksum of themselves in the footer; the caches carry a
checksum too, and a cache that is missing or damaged is made again from the data.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from lakejobs.config import lake as settings
from lakejobs.console import LakeError, log

TEMPORARY = "_tmp-"
COPIED_AT_ONCE = 1 << 30
BEING_WRITTEN = (".tmp", ".part")
SNAPSHOT = r"_(\d{8}_\d{6}_\d{6})\.parquet"
STAMP = re.compile(r"_([0-9]{8})_((?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9])(?![0-9])")
DELIVERED = re.compile(r"(.+)_delivered_([0-9]{8}_[0-9]{6}_[0-9]{6})(\.csv)", re.IGNORECASE | re.DOTALL)
DELIVERED_FORMAT = "%Y%m%d_%H%M%S_%f"
# How earlier versions named another content of a name: by the first digits of its hash.
DELIVERED_BY_HASH = re.compile(r"(.+)-([0-9a-f]{8})(\.csv)", re.IGNORECASE | re.DOTALL)
EPOCH = dt.datetime.fromtimestamp(0, dt.UTC).replace(tzinfo=None)
NO_CHECKSUM = "0" * 64
FOOTER_START = b'{"checksum": "'
_serial = itertools.count()


class File(NamedTuple):
    """A file as a listing shows it."""

    name: str
    size: int
    mtime_ns: int
    inode: int = 0
    ctime_ns: int = 0

    @property
    def signature(self) -> list[int]:
        """Changes whenever the file is written to or replaced."""
        return [self.size, self.mtime_ns, self.ctime_ns, self.inode]


@dataclass(frozen=True)
class Lake:
    """The paths of one lake."""

    root: str
    staging: str

    def staging_directory(self, domain: str) -> str:
        return f"{self.staging}/{domain}"

    def staged(self, domain: str, prefix: str, batch: dt.datetime) -> str:
        return f"{self.staging}/{domain}/{prefix}_{batch:%Y%m%d_%H%M%S}.csv"

    def layer(self, layer: str, name: str) -> str:
        """Directory of a domain in bronze or silver, or of a table in gold."""
        return f"{self.root}/{layer}/{name}"

    def bronze(self, domain: str, date: dt.date) -> str:
        return f"{self.root}/bronze/{domain}/{partition_path(date)}"

    def manifest(self, domain: str, date: dt.date) -> str:
        return f"{self.bronze(domain, date)}/_manifest.json"

    def silver(self, domain: str, date: dt.date) -> str:
        return f"{self.root}/silver/{domain}/{partition_path(date)}/{domain}.parquet"

    def gold(self, table: str, snapshot: str) -> str:
        return f"{self.root}/gold/{table}/{snapshot}"

    def validations(self, domain: str) -> str:
        return f"{self.root}/quality/validations/{domain}"

    @property
    def data_docs(self) -> str:
        return f"{self.root}/quality/data_docs"

    @property
    def report(self) -> str:
        return f"{self.root}/quality/report.html"

    def facts(self, domain: str) -> str:
        return f"{self.root}/_facts_{domain}.json"

    def relative(self, path: str) -> str:
        """The path as it is written into the lake's files: the same wherever the lake is moved to."""
        return path[len(self.root) + 1 :]


def current() -> Lake:
    """The lake that the configuration names."""
    section = settings()
    return Lake(section.root.rstrip("/") or "/", section.staging.rstrip("/") or "/")


def partition_path(date: dt.date) -> str:
    """A partition's directory within its domain's."""
    return f"year={date.year:04d}/month={date.month:02d}/day={date.day:02d}"


# ------------------------------------------------------------------------------------------------ deliveries
#
# The order of a domain's deliveries can be read from the names in bronze, so it outlives every cache and every copy:
#
#     sales_20261101_120000.csv                               the first delivery of a name with a stamp: at that moment
#     sales_20261101_120000_delivered_20261102_090000_000000.csv      the same name with other content, and when it came
#     till_delivered_20261102_083000_500000.csv               a name without a stamp, till.csv, and when it came
#     till.csv                                                put into bronze by hand: at midnight of its partition


def landing_date(file: File, now: dt.datetime) -> dt.date:
    """The stamp in the file's name, or else the day (UTC) it was last modified, today at the latest."""
    for day, _ in STAMP.findall(file.name):
        with contextlib.suppress(ValueError):
            return _day(day)
    return modified(file, now).date()


def modified(file: File, now: dt.datetime) -> dt.datetime:
    """When (UTC) a staged file was last modified; a moment still to come counts as now."""
    return min(EPOCH + dt.timedelta(microseconds=file.mtime_ns // 1000), now)


def stamp(name: str) -> dt.datetime | None:
    """The moment that a name says by its first stamp, `_YYYYMMDD_HHMMSS`."""
    for day, time_of_day in STAMP.findall(name):
        with contextlib.suppress(ValueError):
            return dt.datetime.strptime(day + time_of_day, "%Y%m%d%H%M%S")
    return None


def delivered_name(original: str, moment: dt.datetime) -> str:
    """The name in bronze of a delivery whose own name does not say when it came."""
    stem, dot, suffix = original.rpartition(".")
    return f"{stem}_delivered_{moment.strftime(DELIVERED_FORMAT)}{dot}{suffix}"


class Delivery(NamedTuple):
    """A file in bronze as its name tells of it. Deliveries sort as they came."""

    moment: dt.datetime
    """When it came (UTC)."""
    original: str
    """The name under which it was staged."""
    place: int
    """Tells the later contents of a name apart from the first where an earlier version of lakejobs named them."""


def delivery(name: str, landing: dt.date, sha256: str) -> Delivery:
    """What the name of a file in a bronze partition says of its delivery."""
    if found := DELIVERED.fullmatch(name):
        with contextlib.suppress(ValueError):
            return Delivery(dt.datetime.strptime(found[2], DELIVERED_FORMAT), found[1] + found[3], 0)
    original, place = name, 0
    if (found := DELIVERED_BY_HASH.fullmatch(name)) and sha256.startswith(found[2].lower()):
        original, place = found[1] + found[3], 1
    return Delivery(stamp(original) or dt.datetime.combine(landing, dt.time()), original, place)


def original_name(name: str) -> str:
    """The name under which a file in bronze was staged, so far as it can be told without its content."""
    found = DELIVERED.fullmatch(name)
    return found[1] + found[3] if found else name


# Every delivery is asked on every run, and there are few days.
@functools.cache
def _day(digits: str) -> dt.date:
    return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))


def partition_date(path: str) -> dt.date:
    """The date of the partition that a file is in, of a path from its domain's directory."""
    return dt.date(*(int(part.partition("=")[2]) for part in path.split("/")[:3]))


def snapshot_name(table: str, last: str | None, now: dt.datetime) -> str:
    """A name that sorts after the last snapshot's, whatever the clock did meanwhile."""
    if last and (found := re.search(f"{SNAPSHOT}$", last)):
        previous = dt.datetime.strptime(found[1], "%Y%m%d_%H%M%S_%f").replace(tzinfo=dt.UTC)
        now = max(now, previous + dt.timedelta(microseconds=1))
    return f"{table}_{now:%Y%m%d_%H%M%S_%f}.parquet"


# ------------------------------------------------------------------------------------------------ listing


def files(directory: str) -> list[File]:
    """The regular files of a directory, by name; none where it does not exist. Links are not followed."""
    found = []
    with (
        explained(f"cannot list {directory}"),
        contextlib.suppress(FileNotFoundError),
        os.scandir(directory) as entries,
    ):
        for entry in entries:
            try:
                known = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone since the listing began
                continue
            if stat.S_ISREG(known.st_mode):
                found.append(File(entry.name, known.st_size, known.st_mtime_ns, known.st_ino, known.st_ctime_ns))
    return sorted(found)


def is_directory(path: str) -> bool:
    return os.path.isdir(path)


def odd_entries(directory: str) -> list[str]:
    """What `files` passes by for being a link, a directory or a device, by name."""
    with (
        explained(f"cannot list {directory}"),
        contextlib.suppress(FileNotFoundError),
        os.scandir(directory) as entries,
    ):
        return sorted(entry.name for entry in entries if not entry.is_file(follow_symlinks=False))
    return []


def file(path: str) -> File | None:
    """One file, or None where there is none."""
    with explained(f"cannot read {path}"), _if_there():
        found = os.stat(path, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            return File(os.path.basename(path), found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)
    return None


def status(handle: BinaryIO) -> File:
    """An open file as it is now."""
    found = os.fstat(handle.fileno())
    return File("", found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)


def partitions(directory: str) -> Iterator[dt.date]:
    """The dates a domain has partitions of, in order. Directories of any other name are not ours and are passed by."""
    for year in _numbers(directory, "year="):
        for month in _numbers(f"{directory}/year={year:04d}", "month="):
            for day in _numbers(f"{directory}/year={year:04d}/month={month:02d}", "day="):
                with contextlib.suppress(ValueError):
                    yield dt.date(year, month, day)


def _numbers(directory: str, prefix: str) -> list[int]:
    names: list[str] = []
    with explained(f"cannot list {directory}"), contextlib.suppress(FileNotFoundError):
        names = os.listdir(directory)
    return sorted(int(name[len(prefix) :]) for name in names if re.fullmatch(prefix + r"\d{2,4}", name))


def is_data(name: str) -> bool:
    """Whether a file in staging or bronze is a delivery: a .csv that nobody is still writing."""
    return name.lower().endswith(".csv") and not name.startswith((".", "_"))


# ------------------------------------------------------------------------------------------------ publishing


@contextlib.contextmanager
def publish(path: str, *, durable: bool = True) -> Iterator[str]:
    """Write a file whole or not at all: yields the path to write to, which becomes `path` at the end.

    Durable: the content and the name are on the disk when this returns. After an error nothing has changed.
    """
    directory = os.path.dirname(path)
    temporary = f"{directory}/{TEMPORARY}{os.getpid()}-{next(_serial)}"
    with explained(f"cannot write {path}"):
        make_directory(directory)
        try:
            yield temporary
            if durable:
                _sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if durable:
            _sync(directory)


def make_directory(directory: str) -> None:
    """Create a directory and its parents, each of them on the disk before anything is put into it."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory) or "."
    make_directory(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    _sync(parent)


@contextlib.contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """Open a file to read its bytes."""
    with explained(f"cannot read {path}"), open(path, "rb") as handle:
        yield handle


def copy(source: BinaryIO, path: str) -> None:
    """Copy an open file from its beginning, by the kernel where it can."""
    with open(path, "wb") as target:
        if sys.platform == "linux":
            try:
                while os.sendfile(target.fileno(), source.fileno(), None, COPIED_AT_ONCE):
                    pass
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # not on this file system
                    raise
        source.seek(0)
        target.seek(0)
        shutil.copyfileobj(source, target)


@contextlib.contextmanager
def scratch(lake: Lake, domain: str) -> Iterator[str]:
    """A directory for what does not fit in memory, on the lake's disk. Those of dead runs are removed."""
    prefix = f"{TEMPORARY}spill_"
    with explained(f"cannot list {lake.root}"), os.scandir(lake.root) as entries:
        leftovers = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for leftover in leftovers:
        with _holding(leftover) as is_dead:
            if is_dead:
                _remove_tree(leftover)
    while True:
        path = f"{lake.root}/{prefix}{domain}_{os.getpid()}-{next(_serial)}"
        with explained(f"cannot make {path}"):
            os.mkdir(path)
        with _holding(path) as is_held:
            # A run of another domain may have taken it for a dead one's before it was held.
            if not is_held or not os.path.isdir(path):
                continue
            try:
                yield path
            finally:
                _remove_tree(path)
            return


def _remove_tree(directory: str) -> None:
    """Remove what spilled; what cannot be removed goes with a later run."""
    # Told to ignore errors, rmtree raises some of them all the same.
    with contextlib.suppress(OSError):
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _holding(directory: str) -> Iterator[bool]:
    """Hold a directory as long as this process lives; False where another one does, or where it is gone."""
    with explained(f"cannot lock {directory}"):
        try:
            descriptor, is_held = os.open(directory, os.O_RDONLY), True
        except FileNotFoundError:
            descriptor = -1
        if descriptor < 0:
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_held = False
        except OSError:
            os.close(descriptor)
            raise
    try:
        yield is_held
    finally:
        with explained(f"cannot unlock {directory}"):
            os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file for good; it does not matter if it is gone already."""
    with explained(f"cannot remove {path}"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        _sync(os.path.dirname(path))


def sweep(directory: str) -> None:
    """Remove what dead runs left half-written in a directory. Only under the domain's lock."""
    for leftover in files(directory):
        if leftover.name.startswith(TEMPORARY):
            remove(f"{directory}/{leftover.name}")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _if_there() -> contextlib.AbstractContextManager[None]:
    """Pass over what has to do with a file that is not there."""
    return contextlib.suppress(FileNotFoundError, NotADirectoryError)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an operating system's error into a message that says what could not be done and why."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full; make room and run again",
            errno.EDQUOT: "the disk quota is used up; make room and run again",
            errno.EACCES: "permission denied; check who owns it",
            errno.EROFS: "the file system is read-only",
            errno.EIO: "the disk fails to read or write (input/output error)",
            errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
            errno.ENOTDIR: "a file stands where a directory should be",
        }.get(error.errno or 0, error.strerror or str(error))
        raise LakeError(f"{what}: {advice}") from error


@contextlib.contextmanager
def lock(lake: Lake, domain: str) -> Iterator[BinaryIO]:
    """Let one run at a time write to a domain, or to what else has the name. The lock goes when its holder does."""
    path = f"{lake.root}/_lock_{domain}"
    with explained(f"cannot lock {path}"):
        make_directory(lake.root)
        handle = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed below, and that is what releases the lock
    try:
        with explained(f"cannot lock {path}"):
            _wait_for_lock(handle, domain)
        yield handle
    finally:
        with explained(f"cannot unlock {path}"):
            handle.close()


def _wait_for_lock(handle: BinaryIO, domain: str) -> None:
    """Take a lock, or give up after `[lake] lock_timeout` seconds."""
    timeout, waited, pause = settings().lock_timeout, 0.0, 0.01
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if waited >= timeout:
                raise LakeError(
                    f"{domain}: another run has been writing to it for {timeout:,} seconds ([lake] lock_timeout); "
                    "see what it is doing, and run again"
                ) from None
            if not waited:
                log.info("%s: another run is writing to it; waiting for it to finish", domain)
            # A lock cannot be waited for with a time limit, only asked for again.
            time.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 0.5)


# ------------------------------------------------------------------------------------------------ pages and JSON files


def write_text(path: str, text: str) -> None:
    """Publish a page."""
    with publish(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.write(text)


def read_text(path: str, most: int) -> str | None:
    """The first characters of a page; None where there is none that can be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read(most)
    except OSError:
        return None


def write_json(path: str, content: dict[str, Any], *, durable: bool = True) -> None:
    """Publish a JSON object with a checksum of itself as its first member."""
    body = json.dumps(content, separators=(",", ":")).encode()[1:]
    with publish(path, durable=durable) as temporary, open(temporary, "wb") as handle:
        handle.write(b'{"checksum":"' + hashlib.sha256(body).hexdigest().encode() + b'",' + body)


def read_json(path: str) -> dict[str, Any] | None:
    """What write_json wrote, or None where it is missing or no longer what was written."""
    text = b""
    with explained(f"cannot read {path}"), _if_there(), open(path, "rb") as handle:
        text = handle.read()
    start = len(b'{"checksum":"') + 64 + 2
    if hashlib.sha256(text[start:]).hexdigest().encode() != text[13:77]:
        return None
    content: dict[str, Any] = json.loads(text)
    return content


# ------------------------------------------------------------------------------------------------ Parquet footers


def footer_text(content: dict[str, Any]) -> str:
    """The footer's entry of the name `lakejobs`, before `seal` has put the checksum in."""
    return json.dumps({"checksum": NO_CHECKSUM, **content})


def seal(path: str) -> None:
    """Put the file's checksum into its footer: SHA-256 of the file with sixty-four zeros in its place."""
    with open(path, "r+b") as handle:
        start = _footer_position(handle)
        if start is None:
            raise ValueError(f"{path} has no footer of ours")
        position = start + len(FOOTER_START)
        checksum = _checksum(handle, position)
        handle.seek(position)
        handle.write(checksum.encode())


def read_footer(path: str) -> dict[str, Any] | None:
    """The `lakejobs` entry of a Parquet footer; None where the file is missing, damaged, or not ours.

    Reads the whole file once to compare the checksum.
    """
    with (
        explained(f"cannot read {path}"),
        _if_there(),
        contextlib.suppress(ValueError, KeyError, TypeError),
        open(path, "rb") as handle,
    ):
        start = _footer_position(handle)
        if start is None:
            return None
        handle.seek(start)
        text = handle.read().decode("utf-8", "replace")
        content, _ = json.JSONDecoder().raw_decode(text)
        if content["checksum"] == _checksum(handle, start + len(FOOTER_START)):
            return dict(content)
    return None


def _footer_position(handle: BinaryIO) -> int | None:
    """Where our entry begins in a Parquet file: within the footer, whose length stands before the last four bytes."""
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
