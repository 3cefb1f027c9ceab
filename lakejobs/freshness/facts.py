"""Facts: what is known about the files of a domain, kept so that no file is opened twice.

A fact is valid as long as the file's version stays the same. The facts are a cache: without them, every file is read
and verified again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from lakejobs.messages import LakeError, log
from lakejobs.model import GoldFooter, Landing, SilverFooter
from lakejobs.storage import File, documents, footer
from lakejobs.storage.layout import Lake

Kind = TypeVar("Kind")

VERSION = 5
"""The version of the manifests. Those of another version are rebuilt."""
FACTS_VERSION = 6
"""The same for the facts."""


class Facts:
    """What is known about a domain's bronze partitions and Parquet files."""

    def __init__(self, lake: Lake, domain: str) -> None:
        self._lake, self._domain = lake, domain
        known = documents.read_json(lake.store, lake.facts(domain))
        if not known or known.get("version") != FACTS_VERSION:
            known = {"version": FACTS_VERSION, "staging": {}, "landings": {}, "parquet": {}}
        self._known: dict[str, Any] = known
        self._damaged: dict[str, str] = {}
        self._changed = False

    def staging(self, seen: str) -> dict[str, Any] | None:
        """What is known about a listing of staging."""
        known: dict[str, Any] = self._known["staging"]
        return known if known.get("seen") == seen else None

    def remember_staging(self, known: dict[str, Any]) -> None:
        self._known["staging"] = known
        self._changed = True

    def landing(self, date: str) -> Landing | None:
        known = self._known["landings"].get(date)
        return Landing(*known) if known else None

    def remember_landing(self, date: str, landing: Landing) -> None:
        self._known["landings"][date] = list(landing)
        self._changed = True

    def silver(self, path: str, found: File | None, newest: int) -> SilverFooter | None:
        """The footer of an intact silver file, else None. See `_footer`."""
        return self._footer(path, found, newest, SilverFooter.from_json)

    def gold(self, path: str, found: File | None, newest: int) -> GoldFooter | None:
        return self._footer(path, found, newest, GoldFooter.from_json)

    def _footer(
        self, path: str, found: File | None, newest: int, kind: Callable[[dict[str, Any]], Kind]
    ) -> Kind | None:
        """Read a file once for each version of it, and verify its checksum.

        Raises LakeError if the file was written by a version of the code later than `newest`.
        """
        if found is None:
            self._changed |= self._known["parquet"].pop(path, None) is not None
            return None
        known = self._known["parquet"].get(path)
        if known is None or known["version"] != found.version:
            content = footer.read_footer(self._lake.store, path)
            if content is None:
                if self._damaged.get(path) != found.version:
                    self._damaged[path] = found.version
                    log.warning(
                        "%s is damaged or was not written by lakejobs; ignored, and rebuilt if needed",
                        self._lake.location(path),
                    )
                return None
            known = {"version": found.version, "footer": _brief(content)}
            self._known["parquet"][path] = known
            self._changed = True
        if known["footer"].get("version", 0) > newest:
            raise LakeError(
                f"{self._lake.location(path)} was written by a newer lakejobs; upgrade lakejobs or use another lake"
            )
        return kind(known["footer"])

    def forget_others(self, landings: Iterable[str], silver: Iterable[str]) -> None:
        """Forget all but these bronze partitions, these silver files, and other files that still exist.

        For the latter it looks only if the facts have changed: what is known of a file that is gone does no harm.
        """
        there = set(landings)
        for date in [date for date in self._known["landings"] if date not in there]:
            del self._known["landings"][date]
            self._changed = True
        others = self._known["parquet"].keys() - set(silver) if self._changed else set()
        for directory in {path.rpartition("/")[0] for path in others}:
            others -= {f"{directory}/{file.name}" for file in self._lake.store.files(directory)}
        for path in others:
            del self._known["parquet"][path]

    def save(self) -> None:
        """Save the facts. Losing them only costs time, so they are not synced to the disk."""
        with contextlib.suppress(Exception):
            if self._changed and self._lake.store.exists():
                self._changed = False
                # Another run that saves at the same time loses its new facts, and nothing else.
                self._lake.store.sweep("")
                documents.write_json(self._lake.store, self._lake.facts(self._domain), self._known, durable=False)


def _brief(content: dict[str, Any]) -> dict[str, Any]:
    """A footer without its long, rarely needed parts, such as the lineage."""
    long = ("checksum", "lineage", "verdicts", "inputs", "statement")
    return {key: value for key, value in content.items() if key not in long}
