"""What a person has to be told of: what is wrong, what failed, and what was not delivered in time.

Each channel is told of a change of state once. What it was told is kept in `_alerts.json`; if that is lost, it is told
again of what is still wrong.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lakejobs.config import alerts as settings
from lakejobs.explain.status import FAILED, WRONG, DomainStatus, Status, TableStatus
from lakejobs.freshness.runs import Run
from lakejobs.messages import LakeError, few
from lakejobs.project import domains
from lakejobs.storage import Store, deliveries, documents

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DEADLINE = re.compile("(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9])(?: +(?P<days>[A-Za-z,-]+))?")
PATH = "_alerts.json"


@dataclass(frozen=True)
class Deadline:
    """When a domain has to be delivered (UTC)."""

    time: dt.time
    days: frozenset[int] = frozenset(range(7))
    """0 is Monday."""

    def last_two(self, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
        """The last deadline before `now`, after the one before it."""
        found = []
        for back in range(15):
            day = now.date() - dt.timedelta(days=back)
            moment = dt.datetime.combine(day, self.time)
            if day.weekday() in self.days and moment <= now:
                found.append(moment)
        return found[1], found[0]


def deadlines() -> dict[str, Deadline]:
    """The deadlines that the settings name, by domain."""
    found = {}
    for name, text in settings().deadlines.items():
        if name not in domains():
            raise LakeError(f"[alerts] deadlines: unknown domain {name}; known domains: {few(domains(), 30)}")
        parsed = DEADLINE.fullmatch(text.strip()) if isinstance(text, str) else None
        days = _days(parsed["days"]) if parsed else None
        if not parsed or days is None:
            raise LakeError(
                f'[alerts] deadlines: {name}: expected a time (UTC) such as "07:00" or "07:00 Mon-Fri", got {text!r}'
            )
        found[name] = Deadline(dt.time(int(parsed["hour"]), int(parsed["minute"])), days)
    return found


def _days(text: str | None) -> frozenset[int] | None:
    """Mon-Fri or Mon,Wed,Sat; None if it is neither."""
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        ends = [day.capitalize() for day in part.split("-")]
        if len(ends) > 2 or not {*ends} <= {*DAYS}:
            return None
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        found |= {day % 7 for day in range(first, last + 1 + (7 if last < first else 0))}
    return frozenset(found)


def newest_delivery(run: Run, domain: str) -> dt.datetime | None:
    """When (UTC) the newest file of a domain was delivered, landed or not; None if there is none."""
    state = run.state(domain)
    staged = [file for files in state.staged.values() for file in files]
    moments = [deliveries.stamp(file.name) or deliveries.modified(file, state.now) for file in staged]
    for landing, listing in run.lake.landed(domain).items():
        moments += [deliveries.delivery(file.name, landing, "").moment for file in listing.files()]
    # A stamp in a name may be later than now.
    return max((moment for moment in moments if moment <= state.now), default=None)


def problems(run: Run, status: Status, now: dt.datetime) -> dict[str, str]:
    """Everything that is wrong, failed or late: in words, by a key that stays the same for as long as it lasts."""
    found = {}
    looked_at: list[DomainStatus | TableStatus] = [*status.domains, *status.tables]
    for one in looked_at:
        failed = [problem for problem in one.problems if problem.startswith(FAILED)]
        others = [problem for problem in one.problems if not problem.startswith(FAILED)]
        if failed:
            found[f"{one.name} failed"] = f"{one.name}: {'; '.join(failed)}"
        if others and one.state == WRONG:
            found[f"{one.name} wrong"] = f"{one.name}: {few(others, 3)}"
    for name, deadline in deadlines().items():
        since, until = deadline.last_two(now)
        newest = newest_delivery(run, name)
        if newest is None or newest <= since:
            last = f"since {newest:%Y-%m-%d %H:%M}" if newest else "yet"
            found[f"{name} late"] = f"no delivery of {name} {last}, expected by {until:%Y-%m-%d %H:%M} UTC"
    return found


# ------------------------------------------------------------------------------------------------ channels


@dataclass(frozen=True)
class Told:
    """What is remembered of a channel."""

    problems: Mapping[str, str]
    """What it was told and not yet told the end of."""
    failure: str = ""
    """Why it could not be reached the last time."""

    def news(self, now: Mapping[str, str]) -> list[str]:
        """What it has to be told."""
        begun = [said for key, said in now.items() if key not in self.problems]
        return begun + [f"over: {said}" for key, said in self.problems.items() if key not in now]


def channel_id(url: str) -> str:
    """A channel's name in what is remembered, which says nothing of the passwords in its URL."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def remembered(store: Store) -> dict[str, Told]:
    """What was told to each channel, by id."""
    content = documents.read_json(store, PATH) or {}
    return {name: Told(**known) for name, known in content.get("channels", {}).items()}


def remember(store: Store, channels: Mapping[str, Told]) -> None:
    content: dict[str, Any] = {name: vars(known) for name, known in channels.items()}
    documents.write_json(store, PATH, {"channels": content})


def failures(store: Store) -> list[str]:
    """The channels that could not be reached the last time."""
    urls = settings().channels
    known = remembered(store) if urls else {}
    return [told.failure for url in urls if (told := known.get(channel_id(url))) and told.failure]
