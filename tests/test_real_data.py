"""Two weeks of a real shop's sales, compared with results computed independently (see tests/data/README.md)."""

from __future__ import annotations

import csv
import io
import json
import lzma
from pathlib import Path

import duckdb
import pytest

DATA = Path(__file__).parent / "data"
COLUMNS = {
    "daily_sales_summary": ("date", "total_revenue, order_count, unique_customers"),
    "category_sales_summary": ("date || '|' || coalesce(category, '')", "category_revenue, category_orders"),
    "payment_method_summary": ("date || '|' || coalesce(payment_method, '')", "payment_revenue, payment_count"),
}


def german(text: str) -> str:
    """A CSV file as a German till writes it: semicolons, decimal commas, points between thousands, CRLF."""
    header, *rows = csv.reader(io.StringIO(text))
    numbers = [header.index(name) for name in ("quantity", "unit_price", "total_amount")]
    out = io.StringIO()
    write = csv.writer(out, delimiter=";", lineterminator="\r\n").writerow
    write(header)
    for row in rows:
        for index in numbers:
            whole, point, cents = row[index].partition(".")
            sign, digits = whole[: whole.startswith("-")], whole.lstrip("-")
            row[index] = sign + f"{int(digits):,}".replace(",", ".") + point.replace(".", ",") + cents if digits else ""
        write(row)
    return out.getvalue()


@pytest.mark.parametrize("written", ["as usual", "in German"])
def test_two_weeks_of_online_retail_give_the_true_answers(lake, written):
    truth = json.loads((DATA / "online_retail_two_weeks.truth.json").read_text())
    content = lzma.decompress((DATA / "online_retail_two_weeks.csv.xz").read_bytes())
    if written == "in German":
        content = german(content.decode()).encode()
        contract = '[[source]]\nfiles = "online_*"\ndelimiter = ";"\ndecimal = ","\nthousands = "."\n'
        (lake.root / "expectations/sales.deliveries.toml").write_text(contract)
    lake.deliver_bytes("sales", "online_retail.csv", content)
    assert lake.run()
    (manifest,) = lake.root.glob("datalake/bronze/sales/**/_manifest.json")
    assert json.loads(manifest.read_text())["files"][0]["inspection"]["plain"], "it is for the engine to read"

    rows = lake.silver()
    assert rows["partition"].nunique() == truth["dates"]
    assert len(rows) == truth["silver_rows"]
    assert rows["is_valid"].sum() == truth["valid"]
    assert rows["corrections"].count() == 0
    footers = [
        json.loads(value)
        for (value,) in duckdb.sql(
            "select decode(value) from parquet_kv_metadata('datalake/silver/sales/**/*.parquet') "
            "where decode(key) = 'lakejobs'"
        ).fetchall()
    ]
    assert sum(footer["records"] for footer in footers) == truth["records"]
    assert sum(footer["duplicates"] for footer in footers) == truth["records"] - truth["silver_rows"]

    for table, (key, values) in COLUMNS.items():
        found = duckdb.sql(f"select cast({key} as varchar), {values} from '{lake.snapshots(table)[-1]}'").fetchall()
        assert {row[0]: list(row[1:]) for row in found} == truth["gold"][table]

    assert lake.run()
    assert lake.ran == []
