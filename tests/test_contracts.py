"""Contracts of deliveries: files that are written in another way, and files whose columns have other names."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import HEADERS, PROJECT, LakeUnderTest, sale

from lakejobs.engine import records
from lakejobs.model import Contract

LAKEJOBS = Path(sys.executable).with_name("lakejobs")
SEMICOLONS = 'delimiter = ";"\ndecimal = ","\nthousands = "."\n'


@pytest.fixture
def declare(lake):
    """Write the contracts of sales."""

    def write(text: str) -> None:
        path = lake.root / "expectations/sales.deliveries.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    return write


def german(text: str) -> str:
    """A CSV file with semicolons, and with decimal commas and points between thousands in the numbers."""
    header, *rows = csv.reader(io.StringIO(text))
    numbers = [header.index(name) for name in ("quantity", "unit_price", "total_amount")]
    out = io.StringIO()
    write = csv.writer(out, delimiter=";", lineterminator="\r\n").writerow
    write(header)
    for row in rows:
        for index in numbers:
            whole, point, cents = row[index].partition(".")
            if whole.lstrip("-").isdigit():
                row[index] = f"{int(whole):,}".replace(",", ".") if whole != "-0" else whole
                row[index] += "," + cents if point else ""
        write(row)
    return out.getvalue()


def test_two_weeks_with_semicolons_and_decimal_commas_give_the_same_gold(lake, declare, tmp_path):
    text = lzma.open(PROJECT / "tests/data/online_retail_two_weeks.csv.xz").read().decode()
    other = LakeUnderTest(tmp_path / "other")
    declare(f'[[source]]\nfiles = "hamburg_*"\n{SEMICOLONS}')
    lake.deliver_bytes("sales", "hamburg_20101215_000000.csv.gz", gzip.compress(german(text).encode()))
    assert lake.run()
    found = lake.content()
    lake.deliver_bytes("sales", "hamburg_20101215_000000.csv.gz", b"")
