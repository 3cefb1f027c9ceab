"""Contracts of deliveries: files that are written in another way, and files whose columns have other names."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import openpyxl
import pyarrow as pa
import pytest
from conftest import DOMAINS, HEADERS, read_json, sale

from lakejobs.engine import sql
from lakejobs.messages import LakeError
from lakejobs.quality import contracts

LAKEJOBS = Path(sys.executable).with_name("lakejobs")
NAME = "hamburg_20261101_120000"
SALES = [sale("s1"), sale("s2", quantity="", total=""), sale("s3", total="9.00", category="Lampen, groß"), "s4,broken"]


@pytest.fixture
def declare(lake):
    """Write the contracts of sales."""

    def write(*blocks: str) -> None:
        path = lake.root / "expectations/sales.deliveries.toml"
        path.write_text("\n".join(f"[[source]]\n{block}" for block in blocks))

    return write


def lakejobs(lake, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LAKEJOBS, *arguments], cwd=lake.root, capture_output=True, text=True, timeout=120)


def csv(delimiter: str = ",", quote: str = '"') -> str:
    """The sales, the third with a delimiter in a field."""
    lines = [HEADERS["sales"], *SALES]
    marked = [line.replace("Lampen, groß", "Lampen\0 groß").replace(",", delimiter) for line in lines]
    return "".join(
        line.replace("Lampen\0 groß", f"{quote}Lampen, groß{quote}" if delimiter == "," else "Lampen, groß") + "\n"
        for line in marked
    )


def workbook() -> bytes:
    """The same as an Excel workbook, its numbers and times as such."""
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    sheet = book.create_sheet("Sales")
    sheet.append(HEADERS["sales"].split(","))
    time = dt.datetime(2026, 11, 1, 10)
    for sale_id, category, quantity, total in (
        ("s1", "Home", 2, 10.0),
        ("s2", "Home", None, None),
        ("s3", "Lampen, groß", 2, 9),
    ):
        sheet.append([sale_id, time, "C1", "P1", "Lamp", category, quantity, 5.0, total, "cash", "completed"])
    held = io.BytesIO()
    book.save(held)
    return held.getvalue()


WRITTEN = {
    "semicolons": (".csv", csv(";").encode(), 'delimiter = ";"'),
    "tabs, windows-1252": (".csv", csv("\t").encode("cp1252"), 'delimiter = "\\t"\nencoding = "windows-1252"'),
    "single quotes": (".csv", csv(quote="'").encode(), 'quote = "\'"'),
    "no quotes": (".csv", csv("|").encode(), 'delimiter = "|"\nquote = ""'),
    "utf-16": (".csv", csv().encode("utf-16"), 'encoding = "utf-16"'),
    "gzip": (".csv.gz", gzip.compress(csv().encode()), ""),
    "zstd": (".CSV.ZST", pa.compress(csv().encode(), "zstd", asbytes=True), ""),
    "gzip of utf-16": (".csv.gz", gzip.compress(csv(";").encode("utf-16")), 'encoding = "utf-16"\ndelimiter = ";"'),
    "excel": (".xlsx", workbook, 'sheet = "Sales"'),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_what_is_written_in_another_way_gives_the_same_rows(lake, declare, written):
    ending, content, contract = WRITTEN[written]
    lake.deliver_bytes("sales", f"{NAME}.csv", csv().encode())
    assert lake.run()
    usual = lake.silver()
    for path in lake.root.glob("*/**/hamburg*"):
        path.unlink()
    declare(f'files = "hamburg_*"\n{contract}\n')
    lake.deliver_bytes("sales", NAME + ending, content() if callable(content) else content)
    assert lake.run()
    found = lake.silver()
    columns = [name for name in usual if name not in ("rescued_data", "source_file", "corrections")]
    if written == "excel":  # which has no broken lines
        usual = usual[usual["validation_errors"] != "MALFORMED_LINE"].reset_index(drop=True)
    assert found[columns].to_csv() == usual[columns].to_csv()
    (bronze,) = lake.bronze("2026-11-01").glob("hamburg*")
    assert bronze.name == NAME + ending
    assert lake.run()
    assert lake.ran == []


@pytest.mark.parametrize(
    ("marks", "written", "read"),
    [
        (",", "12,30", "12.30"),
        (",", "-,5", "-.5"),
        (",", "12", "12"),
        (",", "1,5e3", "1.5e3"),
        (",", "12.30", None),
        (",.", "1.234,50", "1234.50"),
        (",.", "1234,50", "1234.50"),
        (",.", "12.345.678", "12345678"),
        (",.", "1.5", None),
        (",.", "1.2345", None),
        (",.", ".5", None),
        (".,", "1,234.50", "1234.50"),
        (".,", "1,23", None),
        (", ", "1 234,5", "1234.5"),
        (", ", "1\u00a0234,5", "1234.5"),
        (", ", "1\u202f234,5", "1234.5"),
        (".'", "1'234.5", "1234.5"),
    ],
)
def test_numbers_are_read_with_the_marks_of_their_source_only(marks, written, read):
    usual = sql._usual("value", marks).replace("regexp_like", "regexp_matches")
    ((found,),) = duckdb.sql(f"select {usual} from (select {sql.text(written)} as value)").fetchall()
    assert found == read


def test_a_number_with_other_marks_is_no_number_and_stays_readable(lake, declare):
    declare('files = "hamburg*"\ndelimiter = ";"\ndecimal = ","\n')
    line = "s1;2026-11-01T10:00:00;C1;P1;Lamp;Home;2;{};{};cash;completed"
    header = HEADERS["sales"].replace(",", ";")
    lake.deliver(
        "sales", f"{NAME}.csv", line.format("5,25", "9,00"), line.format("5.25", "").replace("s1", "s2"), header=header
    )
    lake.deliver("sales", "munich_20261101_120000.csv", sale("s3", price="5.25"))
    assert lake.run()
    first, second, third = lake.silver().to_dict("records")
    assert (first["unit_price"], first["total_amount"]) == (5.25, 10.5)
    assert first["corrections"] == '{"total_amount": "9.00"}'
    assert (second["validation_errors"], second["rescued_data"]) == (
        "TYPE:unit_price; NULL:unit_price; NULL:total_amount", '{"unit_price": "5.25"}',
    )  # fmt: skip
    assert third["total_amount"] == 10.5


def test_merging_and_rebuilding_give_the_same_with_marks(lake, declare, set_lake):
    declare('files = "hamburg*"\ndelimiter = ";"\ndecimal = ","\n')
    line = "s{};2026-11-01T10:00:00;C1;P1;Lamp;Home;2;5,25;{};cash;completed"
    header = HEADERS["sales"].replace(",", ";")
    lake.deliver("sales", f"{NAME}.csv", line.format(1, "9,00"), line.format(2, "10,50"), header=header)
    assert lake.run()
    lake.deliver("sales", "hamburg_20261101_130000.csv", line.format(3, "7,00"), header=header)
    assert lake.run()
    merged, footers = lake.silver(), lake.footers()
    lake.partition("2026-11-01").unlink()
    set_lake(merge=False)
    assert lake.run()
    assert lake.silver().to_csv() == merged.to_csv()
    assert [(one["identity"], one["verdicts"]) for one in lake.footers()] == [
        (one["identity"], one["verdicts"]) for one in footers
    ]


def test_a_contract_concerns_its_source_only(lake, declare):
    lake.deliver("sales", f"{NAME}.csv", sale("s1", time="2026-11-01T10:00:00"))
    lake.deliver("sales", "munich_20261101_120000.csv", sale("s2", time="2026-10-31T10:00:00"))
    assert lake.run()
    declare('files = "hamburg*"\nthousands = "\'"\n')
    why = lakejobs(lake, "why", "silver/sales/2026-11-01")
    assert f"the contract of bronze/sales/year=2026/month=11/day=01/{NAME}.csv changed" in why.stdout
    assert lake.run()
    assert lake.ran_names("Silver") == ["2026-11-01"]
    declare('files = "hamburg*"\nabsent = ["status"]\n', 'files = "paris*"\ndelimiter = ";"\n')
    assert lake.run()
    assert lake.ran_names("Silver") == ["2026-11-01"], "back to how it was"
    declare('files = "hamburg*"\nabsent = ["status"]\n')
    assert lake.run()
    assert lake.ran == []


def test_a_file_whose_columns_have_other_names_waits_until_it_is_accepted(lake, caplog):
    lake.deliver("sales", "munich_20261101_120000.csv", sale("s1"))
    header = HEADERS["sales"].replace("customer_id", "Kunde_Id")
    lake.deliver("sales", f"{NAME}.csv", sale("s2"), header=header)
    assert lake.run()
    path = f"bronze/sales/year=2026/month=11/day=01/{NAME}.csv"
    message = (
        f"datalake/{path} is held back: column customer_id is missing, and Kunde_Id looks like it. Accept it with: "
    )
    assert message in caplog.text
    assert [*lake.silver()["sale_id"]] == ["s1"]
    status = lakejobs(lake, "status")
    assert status.returncode == 2
    assert message in status.stdout
    command = re.search(r"Accept it with: lakejobs (.*?) \(or", status.stdout)[1]
    accepted = lakejobs(lake, *command.split())
    assert accepted.returncode == 0, accepted.stderr
    assert 'files = "hamburg_*.csv"\naliases = { "Kunde_Id" = "customer_id" }' in accepted.stdout
    assert "held back" not in lakejobs(lake, "status").stdout, "the next run reads it"
    caplog.clear()
    # The next one of the same source, too.
    lake.deliver("sales", "hamburg_20261101_130000.csv", sale("s3"), header=header)
    assert lake.run()
    assert [*lake.silver()["customer_id"]] == ["C1", "C1", "C1"]
    assert "held back" not in caplog.text
    assert lakejobs(lake, "status").returncode == 0
    for cache in lake.root.glob("datalake/**/_*"):
        if cache.is_file():
            cache.unlink()
    assert lake.run()
    assert lake.ran_names("Silver") == []


def test_a_file_can_be_accepted_as_it_is(lake):
    header = HEADERS["sales"].replace("category", "categories")
    lake.deliver("sales", f"{NAME}.csv", sale("s1"), header=header)
    assert lake.run()
    assert lake.silver().empty
    assert lakejobs(lake, "accept", "sales", f"{NAME}.csv").returncode == 0
    assert lake.run()
    assert [*lake.silver()["rescued_data"]] == ['{"categories": "Home"}']
    assert lakejobs(lake, "status").returncode == 0


def test_another_name_of_the_key_is_accepted_in_the_same_way(lake, caplog):
    lake.deliver("sales", f"{NAME}.csv", sale("s1"), header=HEADERS["sales"].replace("sale_id", "saleid"))
    assert lake.run()
    assert (
        f"saleid looks like sale_id. Accept it with: lakejobs accept sales {NAME}.csv --alias saleid=sale_id"
        in caplog.text
    )
    refused = lakejobs(lake, "accept", "sales", f"{NAME}.csv")
    assert (refused.returncode, refused.stderr) == (
        2, "expectations/sales.deliveries.toml, the new source: absent: every record of sales needs sale_id\n",
    )  # fmt: skip
    assert lakejobs(lake, "accept", "sales", f"{NAME}.csv", "--alias", "saleid=sale_id").returncode == 0
    assert lake.run()
    assert [*lake.silver()["sale_id"]] == ["s1"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv.gz", gzip.compress(csv().encode() * 50)[:-20], "it cannot be unpacked"),
        ("a.csv.gz", csv().encode(), "it cannot be unpacked"),
        ("a.csv.zst", csv().encode(), "it cannot be unpacked"),
        ("a.xlsx", csv().encode(), "it cannot be read as an Excel workbook"),
        ("a.csv", gzip.compress(csv().encode()), "it is compressed with gzip; let its name end in .csv.gz"),
        ("a.csv", csv(";").encode(), 'or declare delimiter = ";" in expectations/sales.deliveries.toml'),
        ("b.csv", csv().encode("cp1252"), "it is not utf-8 text, as its contract says"),
        ("c.csv", b"\xff", "it is not utf-16 text, as its contract says"),
    ],
)
def test_what_is_not_as_it_should_be_is_rejected_by_name_and_blocks_nothing(
    lake, declare, caplog, name, content, reason
):
    declare('files = "b.csv"\nencoding = "UTF8"', 'files = "c.csv"\nencoding = "utf-16"')
    lake.deliver_bytes("sales", name, content)
    lake.deliver("sales", "munich_20261101_120000.csv", sale("s1"))
    assert lake.run()
    assert reason in caplog.text
    assert [*lake.silver()["sale_id"]] == ["s1"]


def test_broken_contracts_fail_their_domain_alone_and_land_nothing(lake, declare, caplog):
    declare("files = 'x'\ndelimeter = ';'")
    lake.deliver("sales", "munich_20261101_120000.csv", sale("s1"))
    lake.deliver("inventory", "inventory_20261101_120000.csv")
    assert not lake.run()
    message = "expectations/sales.deliveries.toml, source 1: unknown 'delimeter'; did you mean delimiter?"
    assert message in caplog.text
    assert "Traceback" not in caplog.text
    assert not lake.bronze("2026-11-01").exists()
    assert lake.snapshots("inventory_net_position")
    assert message in lakejobs(lake, "status").stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("delimiter = ';'", "expected blocks that begin with [[source]], and nothing else"),
        ("[[source]]\ndelimiter = ';;'", "source 1: delimiter ';;': expected one character such as ; or \\t"),
        ("[[source]]\ndelimiter = 'ü'", "source 1: delimiter 'ü': expected"),
        ("[[source]]\ndelimiter = 7", "source 1: expected delimiter to be text, got 7"),
        ("[[source]]\nquote = ','", "source 1: quote and delimiter are both ','"),
        ("[[source]]\ndecimal = ';'", "source 1: decimal ';': expected . or ,"),
        ("[[source]]\nthousands = '-'", "source 1: thousands '-': expected one of"),
        ("[[source]]\nthousands = '.'", "source 1: decimal and thousands are both '.'"),
        ("[[source]]\nencoding = 'klingon'", "source 1: unknown encoding 'klingon'"),
        ("[[source]]\nencoding = 'base64'", "source 1: unknown encoding 'base64'"),
        ("[[source]]\nfiles = []", "source 1: expected files to be a pattern"),
        ("[[source]]\naliases = { a = 'b' }", "source 1: a cannot stand for 'b': sales has no such column"),
        ("[[source]]\naliases = { a = [] }", "source 1: a cannot stand for []: sales has no such column"),
        ("[[source]]\naliases = { status = 'category' }", "source 1: status is a column itself"),
        ("[[source]]\nabsent = ['nothing']", "source 1: absent: sales has no column 'nothing'"),
        ("[[source]]\nabsent = ['timestamp']", "source 1: absent: every record of sales needs timestamp"),
        ("[[source", "is not TOML: "),
    ],
)
def test_a_contract_that_makes_no_sense_is_named(lake, text, message):
    (lake.root / "expectations/sales.deliveries.toml").write_text(text)
    with pytest.raises(LakeError, match=re.escape(message)):
        contracts.read(DOMAINS["sales"])


def test_later_blocks_override_earlier_ones(lake, declare):
    declare('delimiter = ";"\nabsent = ["status"]\nencoding = "latin1"',
            'files = ["Hamburg*", "x"]\ndelimiter = "|"\nabsent = ["category"]')  # fmt: skip
    loaded = contracts.read(DOMAINS["sales"])
    one, other = loaded.of("hamburg_1.csv"), loaded.of("y.csv")
    assert (one.delimiter, one.absent, one.encoding) == ("|", ("status", "category"), "iso8859-1")
    assert (other.delimiter, other.absent) == (";", ("status",))


def test_a_trace_finds_records_in_packed_files(lake, declare):
    declare('files = "hamburg_*"\ndelimiter = ";"')
    lake.deliver_bytes("sales", f"{NAME}.csv.gz", gzip.compress(csv(";").encode()))
    assert lake.run()
    traced = lakejobs(lake, "trace", "sales", "s3")
    assert traced.returncode == 0, traced.stderr
    assert f"{NAME}.csv.gz, record 3, line 4" in traced.stdout
    assert "Lampen, groß" in traced.stdout
    assert read_json(lake.bronze("2026-11-01") / "_manifest.json")["files"][0]["inspection"]["plain"]
    asked = lakejobs(lake, "sql", "select count(*) as n from bronze.sales")
    assert "4" in asked.stdout, asked.stderr
