"""Facts: what was learned of the files of a domain, kept so that none is opened twice.

A fact holds as long as the file's version does. The file that keeps them is a cache; without it everything is read,
verified and learned anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, TypeVar

from lakejobs.messages import LakeError, log
from lakejobs.model import GoldFooter, Landing, SilverFooter
from lakejobs.storage import File, documents, footer
from lakejobs.storage.layout import Lake

Kind = TypeVar("Kind")

VERSION = 4
"""Of the caches, and of manifests. Another version's are made anew."""


class Facts:
    """What is known of the bronze partitions, and of the Parquet files, of a domain."""

    def __init__(self, lake: Lake, domain: str) -> None:
        self._lake, self._domain = lake, domain
        known = documents.read_json(lake.store, lake.facts(domain))
        if not known or known.get("version") != VERSION:
            known = {"version": VERSION, "landings": {}, "parquet": {}}
        self._known: dict[str, Any] = known
        self._changed = False

    def landing(self, date: str) -> Landing | None:
        known = self._known["landings"].get(date)
        return Landing(**known) if known else None

    def remember_landing(self, date: str, landing: Landing) -> None:
        self._known["landings"][date] = asdict(landing)
        self._changed = True

    def silver(self, path: str, found: File | None, newest: int) -> SilverFooter | None:
        """The footer of a silver file that is whole; None of any other. See `_footer`."""
        return self._footer(path, found, newest, SilverFooter.from_json)

    def gold(self, path: str, found: File | None, newest: int) -> GoldFooter | None:
        return self._footer(path, found, newest, GoldFooter.from_json)

    def _footer(
        self, path: str, found: File | None, newest: int, kind: Callable[[dict[str, Any]], Kind]
    ) -> Kind | None:
        """A file whose version is not the one remembered is read once, and its checksum compared.

        Raises LakeError where it was written by a version of the code later than `newest`.
        """
        if found is None:
            self._changed |= self._known["parquet"].pop(path, None) is not None
            return None
        known = self._known["parquet"].get(path)
        if known is None or known["version"] != found.version:
            content = footer.read_footer(self._lake.store, path)
            if content is None:
                log.warning("%s is damaged or not one of ours: it is made again", self._lake.location(path))
                return None
            known = {"version": found.version, "footer": _brief(content)}
            self._known["parquet"][path] = known
            self._changed = True
        if known["footer"].get("version", 0) > newest:
            raise LakeError(
                f"{self._lake.location(path)} was written by a newer lakejobs: upgrade this one, or name another lake"
            )
        return kind(known["footer"])

    def forget_others(self, landings: Iterable[str], silver: Iterable[str]) -> None:
        """Forget the bronze partitions and the silver files that are gone, and gold files that are."""
        there = set(landings)
        for date in [date for date in self._known["landings"] if date not in there]:
            del self._known["landings"][date]
            self._changed = True
        for path in self._known["parquet"].keys() - set(silver):
            if self._lake.store.stat(path) is None:
                del self._known["parquet"][path]
                self._changed = True

    def save(self) -> None:
        """Keep what was learned. Losing it costs time only, so it is not forced to the disk."""
        if self._changed and self._lake.store.exists():
            self._changed = False
            with contextlib.suppress(Exception):
                # Another run that is saving at this moment loses what it learned, no more.
                self._lake.store.sweep("")
                documents.write_json(self._lake.store, self._lake.facts(self._domain), self._known, durable=False)


def _brief(content: dict[str, Any]) -> dict[str, Any]:
    """A footer without what is seldom asked for: what the file was made from, one by one."""
    return {key: value for key, value in content.items() if key not in ("checksum", "lineage", "inputs")}
