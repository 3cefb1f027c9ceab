"""Storage: where the lake's files are. Only this package lists, reads, publishes, removes and locks files.

`Store` is the protocol, `local` a store on a local disk, `objects` one in an object store. `layout` knows the path of
every file of a lake, `deliveries` the names in bronze, `footer` the footers of Parquet files; `documents` reads and
writes JSON and pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple, Protocol

from lakejobs.messages import LakeError

ANY = "any"
"""Stands for any version, or no file at all."""
TEMPORARY = "_tmp-"
"""Prefix of files that are being written. Readers ignore them; if their writer dies, a later run sweeps them."""


class File(NamedTuple):
    """A file as a listing shows it."""

    path: str
    """Relative to the root of the store, or to the directory that was listed."""
    size: int
    version: str
    """Opaque; changes whenever the file is written to or replaced. (In an object store, by other content only.)"""
    modified_ns: int
    """Nanoseconds since 1970, UTC."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class MissingError(LakeError):
    """The file to read is missing."""


class ChangedError(LakeError):
    """The file to replace has another version than expected."""


class Listing(Protocol):
    """Files of one directory. Most listings are only compared with an earlier one, so they make no `File`s by then."""

    @property
    def digest(self) -> str:
        """A hash of names and versions: it changes if a file is added, removed, written to or replaced."""

    def files(self) -> list[File]:
        """The files, sorted by name. Paths are relative to the directory."""


class Lease(Protocol):
    """A lock that is held. Each holder that changes something leaves a token for later ones."""

    @property
    def token(self) -> str:
        """What the last holder left; '' if none has."""

    def renew_token(self) -> str:
        """Leave a new token and return it. If it cannot be stored, it is lost."""


class Store(Protocol):
    """Files below one root, by relative paths with `/`. Errors are LakeErrors that name the file."""

    root: str
    token_seconds: float
    """Seconds for which a run need not ask again for a token: asking costs nothing on a disk, else a request."""
    dates_files: bool
    """Whether the store dates files by its own clock, so that none is dated wrong, whatever a host's clock says."""

    def location(self, path: str) -> str:
        """The location of a file for people: its path on disk, or its URL."""

    def on_disk(self, paths: Sequence[str]) -> list[str]:
        """Paths on a local disk of files as they are now: their own, or those of copies, which stay as long as this
        object does. Raises MissingError if one does not exist."""

    def url(self, path: str) -> str:
        """The URL of a file."""

    def exists(self) -> bool:
        """Whether the root exists."""

    def files(self, directory: str) -> list[File]:
        """The files of a directory, sorted by path; none if it does not exist.

        Links are not files. Paths are relative to the directory.
        """

    def listings(self, directory: str, depth: int, wanted: Callable[[str], bool]) -> dict[str, Listing]:
        """The files whose names are wanted, by directory, of all directories `depth` levels below one.

        Names of directories are relative to that one. Those without such a file are left out.
        """

    def named(self, directory: str, depth: int, name: str) -> dict[str, File]:
        """The files of one name, by directory, in all directories `depth` levels below one. Otherwise as `listings`."""

    def others(self, directory: str) -> list[str]:
        """Names of what is in a directory but is not a file: links, directories, devices."""

    def stat(self, path: str) -> File | None:
        """One file, or None if it does not exist."""

    def reading(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading, with seek. Raises MissingError if it does not exist."""

    def version(self, handle: BinaryIO) -> str:
        """The current version of an open file."""

    def read_part(self, path: str, start: int, size: int) -> bytes:
        """Some bytes of a file, which must have them. Raises MissingError if it does not exist."""

    def publish(self, path: str, *, durable: bool = True, replaces: str | None = ANY) -> AbstractContextManager[str]:
        """Publish a file whole or not at all: yields a local path to write the content to.

        `durable`: the file survives a power cut once this has returned. After an error, nothing has changed.
        `replaces`: publish only if the file has this version, or, with None, if there is none; else ChangedError.
        """

    def remove(self, path: str) -> None:
        """Remove a file durably; it is no error if it is already gone."""

    def lock(self, name: str, timeout: float) -> AbstractContextManager[Lease]:
        """Hold the lock of this name, which only one process on all hosts can; wait for it for up to `timeout` seconds.

        If its holder dies, the lock is released.
        """

    def token(self, name: str) -> str:
        """The token that the last holder of a lock left; does not wait for the lock."""

    def sweep(self, directory: str) -> None:
        """Remove unfinished files of dead runs from a directory. Requires the lock of its writers."""

    def scratch(self, name: str) -> AbstractContextManager[str]:
        """A directory on a local disk for what does not fit in memory. Removes those of dead runs."""

    def shared(self, name: str) -> AbstractContextManager[str]:
        """A directory of the store, by its path there, in which other processes publish files for this one to take.

        Removes those of dead runs. Requires a lock that nobody else with this name holds.
        """

    def take(self, path: str, target: str) -> None:
        """Move a file of a shared directory to a local path."""
