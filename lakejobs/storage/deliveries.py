"""Deliveries: when the content of staged and bronze files was delivered, from their names.

The names in bronze give the order of a domain's deliveries, so it survives the loss of caches and any copying:

    sales_20261101_120000.csv                               the first delivery of a name with a stamp: at that time
    sales_20261101_120000_delivered_20261102_090000_000000.csv      the same name with other content, and when
    till_delivered_20261102_083000_500000.csv               a name without a stamp, till.csv, and when
    till.csv                                                put into bronze by hand: at midnight of its partition

Instead of `.csv`, names may end in `.csv.gz`, `.csv.zst` or `.xlsx`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import re
from typing import NamedTuple

from lakejobs.storage import File

BEING_WRITTEN = (".tmp", ".part")
STAMP = re.compile(r"_([0-9]{8})_((?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9])(?![0-9])")
PACKED = {".csv": "", ".csv.gz": "gzip", ".csv.zst": "zstd", ".xlsx": "excel"}
"""What the text of a delivery is packed in, by the end of its name."""
ENDING = f"(?P<ending>{'|'.join(map(re.escape, PACKED))})"
NAME = re.compile(f"(?P<stem>.*){ENDING}", re.IGNORECASE | re.DOTALL)
DELIVERED = re.compile(f"(.+)_delivered_([0-9]{{8}}_[0-9]{{6}}_[0-9]{{6}}){ENDING}", re.IGNORECASE | re.DOTALL)
DELIVERED_FORMAT = "%Y%m%d_%H%M%S_%f"
# How earlier versions named other content under the same name: with the first digits of its hash.
DELIVERED_BY_HASH = re.compile(r"(.+)-([0-9a-f]{8})(\.csv)", re.IGNORECASE | re.DOTALL)
EPOCH = dt.datetime.fromtimestamp(0, dt.UTC).replace(tzinfo=None)


class Delivery(NamedTuple):
    """A file in bronze, according to its name. Sorts in order of delivery."""

    moment: dt.datetime
    """When it was delivered (UTC)."""
    original: str
    """The name it was staged under."""
    place: int
    """1 for later content of a name, if an earlier version of lakejobs named the file; else 0."""


def delivery(name: str, landing: dt.date, sha256: str) -> Delivery:
    """The delivery of a file in a bronze partition, from its name."""
    if found := DELIVERED.fullmatch(name):
        with contextlib.suppress(ValueError):
            return Delivery(dt.datetime.strptime(found[2], DELIVERED_FORMAT), found[1] + found[3], 0)
    original, place = name, 0
    if (found := DELIVERED_BY_HASH.fullmatch(name)) and sha256.startswith(found[2].lower()):
        original, place = found[1] + found[3], 1
    return Delivery(stamp(original) or dt.datetime.combine(landing, dt.time()), original, place)


def is_delivery(name: str) -> bool:
    """Whether a file in staging or bronze is a delivery: a .csv file, perhaps packed, that is not being written."""
    return name.lower().endswith((*PACKED,)) and not name.startswith((".", "_"))


def packed(name: str) -> str:
    """What the text of a delivery is packed in: gzip, zstd or excel; '' for nothing."""
    found = NAME.fullmatch(name)
    return PACKED[found["ending"].lower()] if found else ""


def is_stray(name: str) -> bool:
    """Whether a file in staging is ignored although it is not being written and nothing hides it."""
    return not is_delivery(name) and not name.startswith((".", "_")) and not name.endswith(BEING_WRITTEN)


def landing_date(name: str, modified: dt.datetime) -> dt.date:
    """The date of the stamp in the file's name, or else the day (UTC) it was last modified."""
    for day, _ in STAMP.findall(name):
        with contextlib.suppress(ValueError):
            return _day(day)
    return modified.date()


def modified(file: File, now: dt.datetime) -> dt.datetime:
    """When (UTC) a staged file was last modified; now, if that is in the future."""
    return min(EPOCH + dt.timedelta(microseconds=file.modified_ns // 1000), now)


def stamp(name: str) -> dt.datetime | None:
    """The time in a name's first stamp, `_YYYYMMDD_HHMMSS`."""
    for day, time_of_day in STAMP.findall(name):
        with contextlib.suppress(ValueError):
            return dt.datetime.strptime(day + time_of_day, "%Y%m%d%H%M%S")
    return None


def delivered_name(original: str, moment: dt.datetime) -> str:
    """The name in bronze of a delivery whose own name does not say when it was."""
    found = NAME.fullmatch(original)
    assert found
    return f"{found['stem']}_delivered_{moment.strftime(DELIVERED_FORMAT)}{found['ending']}"


def original_name(name: str) -> str:
    """The name a file in bronze was staged under, as far as its name can tell."""
    found = DELIVERED.fullmatch(name)
    return found[1] + found[3] if found else name


# Called for every delivery on every run, and there are few distinct days.
@functools.cache
def _day(digits: str) -> dt.date:
    return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
