"""What a lake must hold, in plain Python: deliveries in, silver and gold out. It shares no code with the lake.

A delivery is a file in bronze. Everything else follows from the deliveries, the suites and the settings.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

COLUMNS = {
    "sales": {
        "sale_id": "text", "timestamp": "timestamp", "customer_id": "text", "product_id": "text",
        "product_name": "text", "category": "text", "quantity": "whole", "unit_price": "number",
        "total_amount": "number", "payment_method": "text", "status": "text",
    },
    "customer_events": {
        "event_id": "text", "timestamp": "timestamp", "customer_id": "text", "session_id": "text",
        "event_type": "text", "product_id": "text", "page_url": "text", "device_type": "text",
    },
    "inventory": {
        "movement_id": "text", "timestamp": "timestamp", "product_id": "text", "product_name": "text",
        "warehouse_id": "text", "movement_type": "text", "quantity": "whole", "unit_cost": "number",
        "supplier_id": "text",
    },
}  # fmt: skip
KEYS = {"sales": "sale_id", "customer_events": "event_id", "inventory": "movement_id"}

STAMP = re.compile(r"_(\d{8}_\d{6})\.csv$")
DELIVERED = re.compile(r"^(?P<stem>.+)_delivered_(?P<moment>\d{8}_\d{6}_\d{6})\.csv$")
MICROSECOND = dt.timedelta(microseconds=1)

Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------ deliveries


def of_name(name: str) -> tuple[str, dt.datetime | None]:
    """A file's original name, and the moment of its delivery if its name says it."""
    if found := DELIVERED.match(name):
        return f"{found['stem']}.csv", dt.datetime.strptime(found["moment"], "%Y%m%d_%H%M%S_%f")
    return name, None


def stamp(original: str) -> dt.datetime | None:
    found = STAMP.search(original)
    return dt.datetime.strptime(found[1], "%Y%m%d_%H%M%S") if found else None


@dataclass(frozen=True)
class Delivery:
    domain: str
    original: str
    moment: dt.datetime
    content: bytes = field(repr=False)
    renamed: bool

    @property
    def name(self) -> str:
        """The name in bronze."""
        stem = self.original.removesuffix(".csv")
        return f"{stem}_delivered_{self.moment:%Y%m%d_%H%M%S_%f}.csv" if self.renamed else self.original

    @property
    def landed(self) -> dt.date:
        return (stamp(self.original) or self.moment).date()

    @property
    def path(self) -> str:
        return f"bronze/{self.domain}/{partition(self.landed)}/{self.name}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def order(self) -> tuple[dt.datetime, str, str]:
        return self.moment, self.original, self.sha256


def partition(day: dt.date) -> str:
    return f"year={day:%Y}/month={day:%m}/day={day:%d}"


def landing(
    domain: str, name: str, content: bytes, modified: dt.datetime, there: Iterable[Delivery]
) -> Delivery | None:
    """The delivery that lands for a staged file, given those of the domain in bronze; None if it has landed already."""
    original, moment = of_name(name)
    same = sorted((known for known in there if known.original == original), key=lambda known: known.order)
    if moment is not None:
        return None if any(known.name == name for known in same) else Delivery(domain, original, moment, content, True)
    stamped = stamp(original)
    if not same:
        return Delivery(domain, original, stamped or modified, content, renamed=stamped is None)
    if same[-1].content == content:
        return None
    return Delivery(domain, original, max(modified, same[-1].moment + MICROSECOND), content, True)


# ------------------------------------------------------------------------------------------------ records


@dataclass
class Record:
    delivery: Delivery
    number: int
    values: Row
    codes: list[str]
    rescued: Row
    malformed: bool = False
    day: dt.date = dt.date.min
    moment: dt.datetime = dt.datetime.min
    """Stays at the minimum for a missing or out-of-range timestamp: neither says which record is newer."""

    @property
    def rank(self) -> tuple[object, ...]:
        """Of the records with one key, the one that ranks highest wins."""
        return self.moment, self.delivery.order, self.number


def records(delivery: Delivery, earliest: dt.date) -> list[Record]:
    """A file's records; none if the file is rejected."""
    try:
        text = delivery.content.decode()
    except UnicodeDecodeError:
        text = delivery.content.decode("windows-1252")
    lines = [line for line in text.split("\n") if line]
    columns = COLUMNS[delivery.domain]
    header = next(csv.reader(lines[:1]), [])
    if KEYS[delivery.domain] not in header or "timestamp" not in header:
        return []
    found = []
    for number, line in enumerate(lines[1:], 1):
        (fields,) = csv.reader([line])
        record = Record(delivery, number, dict.fromkeys(columns), [], {}, day=delivery.landed)
        found.append(record)
        if len(fields) != len(header):
            record.malformed, record.rescued = True, {"_line": line}
            continue
        texts = dict(zip(header, (value.strip() for value in fields), strict=True))
        for name, value in texts.items():
            if value and name not in columns:
                record.rescued[name] = value
        for name, kind in columns.items():
            if value := texts.get(name):
                record.values[name] = READ[kind](value)
                if record.values[name] is None:
                    record.rescued[name] = value
                    record.codes.append(f"TYPE:{name}")
        if (moment := record.values["timestamp"]) is not None:
            last = max(delivery.landed, delivery.moment.date()) + dt.timedelta(days=1)
            if earliest <= moment.date() <= last:
                record.day, record.moment = moment.date(), moment
            else:
                record.codes.append("OUT_OF_RANGE:timestamp")
        if delivery.domain == "sales":
            correct(record.values)
    return found


def correct(sale: Row) -> None:
    if sale["quantity"] is not None and sale["unit_price"] is not None:
        right = cents(sale["quantity"] * sale["unit_price"])
        if sale["total_amount"] is None or abs(sale["total_amount"] - right) > Decimal("0.01"):
            sale["total_amount"] = right


def cents(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP)


def whole(text: str) -> int | None:
    return int(text.partition(".")[0]) if re.fullmatch(r"-?\d+(\.0*)?", text) else None


def number(text: str) -> Decimal | None:
    return Decimal(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None


def timestamp(text: str) -> dt.datetime | None:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment


READ: dict[str, Callable[[str], Any]] = {"text": str, "whole": whole, "number": number, "timestamp": timestamp}


# ------------------------------------------------------------------------------------------------ silver


@dataclass
class Partition:
    rows: list[Row]
    files: list[tuple[Delivery, int]]
    """In order of delivery, with the number of records."""
    counts: dict[str, int]


def silver(deliveries: Iterable[Delivery], suite: dict[str, Any], earliest: dt.date) -> dict[dt.date, Partition]:
    """A domain's partitions by date."""
    days: dict[dt.date, list[Record]] = defaultdict(list)
    for delivery in sorted(deliveries, key=lambda delivery: delivery.order):
        for record in records(delivery, earliest):
            days[record.day].append(record)
    return {day: judged(found, suite) for day, found in days.items()}


def judged(found: list[Record], suite: dict[str, Any]) -> Partition:
    domain = found[0].delivery.domain
    kept: dict[object, Record] = {}
    for record in found:
        key = record.values[KEYS[domain]]
        # Records without a key are never duplicates.
        mine: object = (key,) if key is not None else (record.delivery.path, record.number)
        if mine not in kept or record.rank > kept[mine].rank:
            kept[mine] = record
    rows = [row(record, suite) for record in kept.values()]
    valid = sum(row["is_valid"] for row in rows)
    counts = {
        "records": len(found), "rows": len(rows), "duplicates": len(found) - len(rows), "valid": valid,
        "invalid": len(rows) - valid,
    }  # fmt: skip
    return Partition(rows, list(Counter(record.delivery for record in found).items()), counts)


def row(record: Record, suite: dict[str, Any]) -> Row:
    if record.malformed:
        codes = ["MALFORMED_LINE"]
    else:
        critical = [rule for rule in suite["expectations"] if rule["severity"] == "critical"]
        codes = record.codes + [rule["meta"]["code"] for rule in critical if not holds(rule, record.values)]
    return {
        **record.values, "is_valid": not codes, "validation_errors": "; ".join(codes),
        "rescued_data": record.rescued, "source_file": record.delivery.path,
        "source_record": record.number,
    }  # fmt: skip


def holds(rule: dict[str, Any], values: Row) -> bool:
    """Whether a row passes a rule. Every rule but one passes missing values."""
    kwargs = rule["kwargs"]
    value = values[kwargs["column"]]
    kind = rule["type"].removeprefix("expect_column_values_to_")
    if kind == "not_be_null":
        return value is not None
    if value is None:
        return True
    if kind == "be_in_set":
        return value in kwargs["value_set"]
    if kind == "not_be_in_set":
        return value not in kwargs["value_set"]
    assert kind == "be_between", kind
    return bool(kwargs.get("min_value", value) <= value <= kwargs.get("max_value", value))


# ------------------------------------------------------------------------------------------------ gold


def gold(silver: dict[str, dict[dt.date, Partition]]) -> dict[str, list[Row]]:
    """The seven gold tables, computed from the valid rows of all domains."""
    valid = {
        domain: [{**row, "date": day} for day, partition in days.items() for row in partition.rows if row["is_valid"]]
        for domain, days in silver.items()
    }
    movements = grouped(
        valid["inventory"], ["date", "product_id", "warehouse_id", "movement_type"],
        product_name=lambda rows: max(present(rows, "product_name"), default=None),
        total_quantity=lambda rows: total(present(rows, "quantity")),
        total_cost=lambda rows: total(
            row["quantity"] * row["unit_cost"]
            for row in rows if row["quantity"] is not None and row["unit_cost"] is not None
        ),
        movement_count=len,
    )  # fmt: skip
    return {
        "daily_sales_summary": grouped(
            valid["sales"], ["date"],
            total_revenue=revenue,
            order_count=len,
            avg_order_value=lambda rows: total(present(rows, "total_amount")) / len(rows),
            unique_customers=lambda rows: len(set(present(rows, "customer_id"))),
            refunded_amount=lambda rows: revenue(row for row in rows if refunded(row)),
            net_revenue=lambda rows: revenue(row for row in rows if not refunded(row)),
        ),
        "category_sales_summary": grouped(
            valid["sales"], ["date", "category"],
            category_revenue=revenue,
            category_orders=len,
            avg_unit_price=lambda rows: total(present(rows, "unit_price")) / len(rows),
        ),
        "payment_method_summary": grouped(
            valid["sales"], ["date", "payment_method"], payment_revenue=revenue, payment_count=len
        ),
        "customer_activity_summary": grouped(
            valid["customer_events"], ["date", "event_type"],
            event_count=len,
            unique_customers=lambda rows: len(set(present(rows, "customer_id"))),
            unique_sessions=lambda rows: len(set(present(rows, "session_id"))),
        ),
        "device_usage_summary": grouped(
            valid["customer_events"], ["date", "device_type"],
            session_count=lambda rows: len(set(present(rows, "session_id"))),
            event_count=len,
        ),
        "inventory_movement_summary": movements,
        "inventory_net_position": grouped(
            movements, ["product_id", "warehouse_id"],
            product_name=lambda rows: max(present(rows, "product_name"), default=None),
            inbound=lambda rows: moved(rows, "inbound"),
            outbound=lambda rows: moved(rows, "outbound"),
            adjustment=lambda rows: moved(rows, "adjustment"),
            net_position=lambda rows: moved(rows, "inbound") - moved(rows, "outbound"),
        ),
    }  # fmt: skip


def grouped(rows: list[Row], by: list[str], **columns: Callable[[list[Row]], Any]) -> list[Row]:
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    return [
        {**dict(zip(by, group, strict=True)), **{name: column(rows) for name, column in columns.items()}}
        for group, rows in groups.items()
    ]


def present(rows: Iterable[Row], column: str) -> list[Any]:
    return [row[column] for row in rows if row[column] is not None]


def total(values: Iterable[Any]) -> Any:
    values = list(values)
    return sum(values) if values else None


def revenue(rows: Iterable[Row]) -> Decimal:
    return sum((row["total_amount"] for row in rows), Decimal(0))


def refunded(sale: Row) -> bool:
    return sale["status"] in ("refunded", "cancelled")


def moved(rows: list[Row], kind: str) -> int:
    return sum(row["total_quantity"] for row in rows if row["movement_type"] == kind)
