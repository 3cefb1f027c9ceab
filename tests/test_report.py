"""The report and the Data Docs, without a browser: what they say, when they are written, and what they cost."""

from __future__ import annotations

import contextlib
import datetime as dt
import html
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PROJECT, LakeUnderTest, lake_in, sale

from lakejobs import luigi_output
from lakejobs.commands import summary
from lakejobs.engine.partitions import rescued_values
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.runs import Run
from lakejobs.messages import percent
from lakejobs.pages import charts, data_docs
from lakejobs.quality.evaluation import EXAMPLE_ROWS
from lakejobs.storage import documents

VISIT = "{id},2026-11-01T10:00:00,C1,V1,{type},P1,/,mobile"
MOVE = "{id},2026-11-01T10:00:00,P1,{name},W1,{type},{quantity},2.00,S1"


def page(lake: LakeUnderTest) -> str:
    return (lake.root / "datalake/quality/report.html").read_text()


def card(lake: LakeUnderTest, domain: str) -> str:
    """The report's text on a domain's state."""
    (found,) = [part for part in re.findall(r"<article.*?</article>", page(lake), re.S) if f"<h2>{domain}<" in part]
    return " ".join(re.sub(r"<[^>]+>", " ", found).split())


def section(lake: LakeUnderTest, title: str) -> str:
    """The part of the report under a heading."""
    return page(lake).partition(f"<h3>{title}")[2].partition("</section>")[0]


def test_the_report_is_made_when_something_changed_and_only_then(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    first = page(lake)
    assert lake.run()
    assert lake.ran == []
    assert page(lake) == first
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s2"))
    assert lake.run()
    assert [task.task_family for task in lake.ran].count("Report") == 1
    assert page(lake) != first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("<html>another's</html>"),
        lambda path: path.write_bytes(b"\xff"),
    ],
    ids=["removed", "replaced", "garbled"],
)
def test_a_report_that_was_lost_comes_back_and_nothing_else_is_made(lake, spoil):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    spoil(lake.root / "datalake/quality/report.html")
    assert lake.run()
    assert {task.task_family for task in lake.ran} == {"Report", "GoldAll"}
    assert "Up to date" in card(lake, "sales")


def test_a_lake_that_was_copied_needs_no_new_report(lake, tmp_path, monkeypatch):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    shutil.copytree(lake.root, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    first = (tmp_path / "copy/datalake/quality/report.html").read_text()
    assert lake.run()
    assert (tmp_path / "copy/datalake/quality/report.html").read_text() == first


def test_an_empty_lake_has_a_report(lake):
    assert lake.run()
    assert "Nothing has been delivered yet" in card(lake, "sales")
    assert "No rows yet" in page(lake)
    assert "data_docs" not in page(lake), "no link to what there is not"


def test_a_single_domain_and_day_with_groups_that_are_not_given_and_amounts_below_zero(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        sale("s1", category=""),
        sale("s2", category="Home", quantity=3, total="15.00"),
    )
    lake.deliver(
        "inventory", "inventory_20261101_120000.csv", MOVE.format(id="m1", name="Lamp", type="outbound", quantity=7)
    )
    assert lake.run()
    assert "Nothing has been delivered yet" in card(lake, "customer_events")
    by_category = section(lake, "Revenue by category")
    assert by_category.index("Home") < by_category.index("(not given)"), "the largest comes first"
    assert re.search(r"<td class=\"number\">15</td>", by_category)
    assert ">-7<" in section(lake, "Net stock position")
    assert "NaN" not in page(lake)


def test_a_domain_whose_rows_are_all_invalid_has_its_place(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", quantity="five"))
    assert lake.run()
    assert "0.0% of 1 row" in card(lake, "sales")
    assert "TYPE:quantity" in section(lake, "Rules that fail most often")


def test_the_figures_are_those_of_the_footers_and_manifests(lake):
    lake.deliver(
        "sales", "sales_20261101_120000.csv", sale("s1"), sale("s1"), sale("s2", quantity=""), sale("s3", total="1")
    )
    lake.deliver("sales", "sales_20261102_120000.csv", "nothing", header="to see here")
    assert lake.run()
    row = page(lake).partition('<td class="title">sales</td>')[2].partition("</tr>")[0]
    # files, rejected, records, malformed; partitions, rows, valid, invalid, duplicates, corrected, rescued
    assert re.findall(r">(\d+)</td>", row) == ["2", "1", "4", "0", "1", "3", "2", "1", "1", "1", "0"]
    assert "2026-11-02/sales_20261102_120000.csv" in section(lake, "Rejected files")
    assert "NULL:quantity" in section(lake, "Rules that fail most often")


def test_written_is_when_a_partition_was_last_written_whatever_its_date(lake):
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s1"), sale("s2", time="2026-11-02T10:00:00"))
    assert lake.run()
    for day, moment in (("2026-11-01", dt.datetime(2031, 5, 6, 7, 8)), ("2026-11-02", dt.datetime(2030, 1, 2, 3, 4))):
        at = moment.replace(tzinfo=dt.UTC).timestamp()
        os.utime(lake.partition(day), (at, at))
    (lake.root / "datalake/quality/report.html").unlink()
    assert lake.run()
    row = page(lake).partition("<td>silver</td>")[2].partition("</tr>")[0]
    assert "2031-05-06 07:08" in row


def test_warnings_turn_a_card_amber_and_are_in_the_summary(lake, monkeypatch):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    first = page(lake)
    said = ["sales_20261101_120000.csv has no column <status>", *(f"warning {number}" for number in range(2, 8))]
    monkeypatch.setattr(DomainState, "warnings", said, raising=False)
    assert lake.run()
    assert page(lake) != first
    assert "Up to date, with warnings" in card(lake, "sales")
    assert "has no column &lt;status&gt;" in card(lake, "sales")
    assert "warning 5 and 2 more" in card(lake, "sales")
    assert '<article class="card warn">' in page(lake)
    assert "warning 7" in summary.show(Run())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_domain_is_named_and_the_others_are_shown_as_they_are_now(lake, workers):
    for domain, line in (
        ("sales", sale("s1")),
        ("inventory", MOVE.format(id="m1", name="Lamp", type="inbound", quantity=1)),
    ):
        lake.deliver(domain, f"{domain}_20261101_120000.csv", line)
    assert lake.run()
    suite = lake.root / "expectations/inventory.json"
    text = suite.read_text()
    suite.write_text("{")
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s2"))
    assert not lake.run(workers=workers)
    if workers == 2:  # one worker may write the page before the other is done; the next run corrects it
        assert not lake.run()
    assert "Not up to date" in card(lake, "inventory")
    assert "expectations/inventory.json is not JSON" in card(lake, "inventory")
    assert "silver: 1 event date (2026-11-01)" in card(lake, "inventory")
    assert "100.0% of 1 row" in card(lake, "inventory"), "what was published before stays"
    assert "Up to date 100.0% of 2 rows" in card(lake, "sales").replace("✔ ", "")
    suite.write_text(text)
    assert lake.run(workers=workers)
    assert "Up to date" in card(lake, "inventory")


def test_of_two_failing_domains_one_is_mended(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    lake.deliver("inventory", "inventory_20261101_120000.csv", MOVE.format(id="m", name="", type="inbound", quantity=1))
    suite = lake.root / "expectations/sales.json"
    text = suite.read_text()
    for name in ("sales", "inventory"):
        (lake.root / f"expectations/{name}.json").write_text("{")
    assert not lake.run()
    assert "Not up to date" in card(lake, "sales")
    suite.write_text(text)
    assert not lake.run()
    assert "Up to date" in card(lake, "sales")
    assert "Not up to date" in card(lake, "inventory")


def test_a_worker_with_nothing_else_to_do_does_not_leave_a_report_of_half_a_run(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run(workers=6)
    assert "Up to date" in card(lake, "sales")


def test_a_domain_that_cannot_be_read_is_named(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    (lake.root / "datalake/silver/inventory").write_text("a file")
    assert not lake.run()
    assert "expected a directory, but found a file" in card(lake, "inventory")
    assert "Up to date" in card(lake, "sales")


def test_a_staging_directory_that_does_not_exist_is_on_every_card(lake, set_lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    set_lake(staging="elsewhere")
    assert not lake.run()
    for domain in ("sales", "inventory"):
        assert "the staging directory elsewhere does not exist" in card(lake, domain)


def test_what_is_delivered_is_shown_as_text(lake):
    markup = "<script>alert(1)</script>"
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", category=markup))
    lake.deliver("sales", "sales_20261101_130000<b>.csv", "x", header=markup)
    lake.deliver(
        "inventory", "inventory_20261101_120000.csv", MOVE.format(id="m", name=markup, type="inbound", quantity=1)
    )
    assert lake.run()
    assert "<script" not in page(lake)
    assert "<b>" not in page(lake)
    assert page(lake).count("&lt;script&gt;") >= 3


def test_a_long_history_has_no_more_bars_than_fit(lake):
    days = [f"{year}-{month:02d}-{day:02d}" for year in range(2017, 2027) for month in range(1, 11) for day in (1, 15)]
    lake.deliver("sales", "sales_20261101_120000.csv", *(sale(f"s{day}", time=day) for day in days))
    assert lake.run()
    revenue = section(lake, "Revenue</h3>")
    captions = re.findall(r"<figcaption[^>]*>(.*?)<", revenue)
    assert captions == ["by day, 2026-08-17 to 2026-10-15", "by quarter, since 2017-01-01"]
    widths = [int(width) for width in re.findall(r'viewBox="0 0 (\d+) 100"', page(lake))]
    assert max(widths) == charts.MOST_BARS
    assert sum(int(label) for label in re.findall(r"net: (\d+)", revenue.partition("by quarter")[2])) == 10 * len(days)


@pytest.mark.parametrize(
    ("low", "high", "whole", "ends"),
    [
        (0, 0, True, (0, 1, 1)),
        (0, 1, True, (0, 1, 1)),
        (0, 3, True, (0, 3, 1)),
        (0, 1234.5, False, (0, 1500, 500)),
        (-30, 100, True, (-50, 100, 50)),
        (-7, 0, True, (-8, 0, 2)),
        (0, 0.03, False, (0, 0.03, 0.01)),
    ],
)
def test_an_axis_has_round_ends_that_hold_everything(low, high, whole, ends):
    assert charts.scale(low, high, whole=whole) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (950, "950"), (1500, "1.5k"), (-20_000, "-20k"), (3.2e6, "3.2M"), (0.25, "0.25")]
)
def test_an_axis_is_labelled_shortly(number, shown):
    assert charts.compact(number) == shown


# ------------------------------------------------------------------------------------------------ Data Docs


def results(lake: LakeUnderTest) -> list[str]:
    return sorted(path.stem for path in (lake.root / "datalake/quality/validations/sales").glob("sales_*.json"))


def pages(lake: LakeUnderTest) -> list[str]:
    return sorted(path.stem for path in (lake.root / "datalake/quality/data_docs/validations/sales").glob("*.html"))


def test_the_oldest_validations_and_their_pages_go_by_the_setting(lake):
    (lake.root / "luigi.cfg").write_text("")
    for second in range(4):
        lake.deliver("sales", f"sales_20261101_12000{second}.csv", sale(f"s{second}"))
        with setting("keep_validations", "2"):
            assert lake.run()
    assert len(results(lake)) == 2
    assert pages(lake) == results(lake)
    index = (lake.root / "datalake/quality/data_docs/index.html").read_text()
    assert sorted(set(re.findall(r"validations/sales/(\w+)\.html", index))) == results(lake)


def test_a_page_whose_result_was_never_written_is_removed_and_no_result_lacks_its_page(lake, monkeypatch):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    directory = lake.root / "datalake/quality/data_docs/validations/sales"
    # As if a run had died between the two.
    write = documents.write_json

    def refused(store: object, path: str, *rest: object, **more: object) -> None:
        if "/validations/" in path and "_index" not in path:
            raise OSError("no space")
        write(store, path, *rest, **more)

    monkeypatch.setattr(documents, "write_json", refused)
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s2"))
    assert not lake.run()
    assert len(list(directory.iterdir())) == 2
    monkeypatch.setattr(documents, "write_json", write)
    lake.deliver("sales", "sales_20261101_140000.csv", sale("s3"))
    assert lake.run()
    assert {path.stem for path in directory.iterdir()} == {*results(lake)}


def test_the_index_can_do_without_what_it_remembers(lake):
    for second in range(2):
        lake.deliver("sales", f"sales_20261101_12000{second}.csv", sale(f"s{second}"))
        assert lake.run()
        (lake.root / "datalake/quality/validations/sales/_index.json").write_text("spoilt")
    lake.deliver("sales", "sales_20261101_120009.csv", sale("s9"))
    assert lake.run()
    index = (lake.root / "datalake/quality/data_docs/index.html").read_text()
    assert sorted(set(re.findall(r"validations/sales/(\w+)\.html", index))) == results(lake)
    assert len(results(lake)) == 3


def test_a_validation_opens_as_many_files_after_hundreds_as_after_a_few(lake):
    def opened_by_a_run(second: int) -> int:
        lake.deliver("sales", f"sales_20261101_12{second:04d}.csv", sale(f"s{second}"))
        with opened("/quality/") as paths:
            assert lake.run()
        return sum("/validations/" in path or "/data_docs/" in path for path in paths)

    opened_by_a_run(0)
    after_a_few = opened_by_a_run(1)
    (result, _), folder = results(lake), lake.root / "datalake/quality"
    for number in range(150):
        name = f"sales_20200101_000000_{number:06d}"
        shutil.copy(folder / f"validations/sales/{result}.json", folder / f"validations/sales/{name}.json")
        shutil.copy(
            folder / f"data_docs/validations/sales/{result}.html", folder / f"data_docs/validations/sales/{name}.html"
        )
    assert opened_by_a_run(2) > 150, "the index opens what it has not seen"
    assert opened_by_a_run(3) == after_a_few
    assert len(results(lake)) == 154


@contextlib.contextmanager
def setting(name: str, value: str) -> Iterator[None]:
    from luigi.configuration import get_config

    get_config().set("lake", name, value)
    try:
        yield
    finally:
        get_config().remove_option("lake", name)


_watching: list[tuple[str, list[str]]] = []


@contextlib.contextmanager
def opened(part: str) -> Iterator[list[str]]:
    """Collects the paths with `part` in them that Python opens in the meantime."""
    if not _watching:
        sys.addaudithook(_note)  # hooks cannot be removed
    _watching[:] = [(part, [])]
    yield _watching[0][1]
    _watching[:] = [("\0", [])]


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watching and isinstance(arguments[0], str) and _watching[0][0] in arguments[0]:
        _watching[0][1].append(arguments[0])


def docs_page(lake: LakeUnderTest, domain: str = "sales") -> str:
    """The text of a domain's latest Data Docs page, one line for each row of a table."""
    newest = max((lake.root / f"datalake/quality/data_docs/validations/{domain}").glob("*.html"))
    text = newest.read_text().partition("</style>")[2].partition("Details from Great Expectations")[0]
    rows = [re.sub(r"<[^>]+>", " ", row) for row in text.split("<tr>")]
    return "\n".join(html.unescape(" ".join(row.split())) for row in rows)


def rule_row(lake: LakeUnderTest, code: str) -> str:
    (found,) = [row for row in docs_page(lake).splitlines() if f" {code} " in f" {row} "]
    return found


def test_samples_show_what_was_delivered(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        sale("s1", price='"10,50"', total=""),
        sale("s2", total="12.3"),
        sale("s3"),
    )
    assert lake.run()
    assert "s1 · unit_price = 10,50 · bronze/sales/" in rule_row(lake, "NULL:unit_price")
    assert "s2 · total_amount = 12.3 · total_amount_difference = 2.3 · bronze/" in rule_row(lake, "WRONG_TOTAL")


def test_what_reading_found_is_among_the_rules(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        sale("s1", price='"10,50"', quantity="two"),
        *(sale(f"q{n}", quantity=f"{n} pieces") for n in range(9)),
        sale("s2", time="1969-12-31T10:00:00"),
        "not a line of it," + "x" * 20_000,
        'nor "this" <b>one</b>, \\ é',
        sale("s3"),
    )
    assert lake.run()
    assert "⚠ TYPE:unit_price reading 1 7.1% A value that does not fit" in rule_row(lake, "TYPE:unit_price")
    assert "s1 · unit_price = 10,50 · bronze/sales/" in rule_row(lake, "TYPE:unit_price")
    quantities = rule_row(lake, "TYPE:quantity")
    assert " reading 10 71.4% " in quantities
    assert quantities.count("quantity =") == EXAMPLE_ROWS
    assert "s1 · quantity = two" in quantities and "q0 · quantity = 0 pieces" in quantities
    assert "s2 · timestamp = 1969-12-31 10:00:00" in rule_row(lake, "OUT_OF_RANGE:timestamp")
    malformed = rule_row(lake, "MALFORMED_LINE")
    assert " reading 2 " in malformed
    assert "not a line of it,xxx" in malformed and "x… · bronze" in malformed
    assert len(malformed) < 1000, "the beginning of a long line"
    assert 'nor "this" <b>one</b>, \\ é' in malformed
    assert "TYPE:total_amount" not in docs_page(lake)
    index = (lake.root / "datalake/quality/data_docs/index.html").read_text()
    assert "<code>TYPE:quantity</code> 10" in index


@pytest.mark.parametrize("text", ['{"_line": "a\\u00e9\\ud83d\\ude00b", "x": "y"}', '{"a": "b\\\\", "_line": "c"}'])
def test_rescued_data_can_be_read_wherever_it_was_cut(text):
    whole = rescued_values(text)
    assert len(whole) == 2
    for end in range(len(text)):
        for name, value in rescued_values(text[:end]).items():
            assert whole[name].startswith(value.removesuffix("…").encode("utf-16", "ignore").decode("utf-16"))


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0.0%"), (0.000015, "<0.1%"), (0.001, "0.1%"), (0.5, "50.0%"), (0.99995, ">99.9%"), (1, "100.0%")],
)
def test_a_few_of_many_are_not_none_and_all_but_a_few_not_all(share, shown):
    assert percent(share) == shown


def test_red_is_for_what_was_stopped(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", quantity=""))
    assert lake.run()
    index = lake.root / "datalake/quality/data_docs/index.html"
    assert ">⚠<" in index.read_text() and "50.0%" in index.read_text()
    assert "✘" not in index.read_text() and "✘" not in docs_page(lake)
    # What silver records when a partition is withheld.
    (name,) = results(lake)
    store, path = lake_in(lake.root).store, f"quality/validations/sales/{name}.json"
    content = documents.read_json(store, path)
    assert content
    content["meta"]["lakejobs"]["withheld"] = {"2026-11-01": "too few rows"}
    documents.write_json(store, path, content)
    rendered = data_docs.render_index(lake_in(lake.root), "sales")
    assert "✘" in rendered and "withheld: 2026-11-01" in rendered


# ------------------------------------------------------------------------------------------------ messages


def test_a_message_is_text_to_the_visualiser_which_takes_it_for_html():
    said: list[str] = []
    luigi_output.announce(SimpleNamespace(set_status_message=said.append), "landed <img src=x>.csv")
    assert said == ["landed &lt;img src=x&gt;.csv"]


def run_luigi(lake: LakeUnderTest, terminal: bool) -> str:
    """What GoldAll writes to standard error, with or without a terminal."""
    shutil.copy(PROJECT / "luigi.cfg", lake.root)
    command = [str(Path(sys.executable).with_name("luigi")), "--module", "lakejobs", "GoldAll", "--local-scheduler"]
    if not terminal:
        done = subprocess.run(command, cwd=lake.root, capture_output=True, timeout=120)
        assert done.returncode == 0
        return done.stderr.decode()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    written = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # raised when the other end of the terminal is closed
            while chunk := os.read(ours, 4096):
                written.extend(chunk)

    reader = threading.Thread(target=read)
    with subprocess.Popen(command, cwd=lake.root, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        reader.start()
        assert process.wait(timeout=120) == 0
    reader.join()
    os.close(ours)
    return written.decode()


@pytest.mark.parametrize("terminal", [True, False])
def test_long_work_shows_a_bar_on_a_terminal_and_plain_lines_elsewhere(lake, terminal):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    said = run_luigi(lake, terminal)
    assert ("Silver(domain=sales, date=2026-11-01) |" in said) == terminal
    assert ("writing partition 1 of 1" in said) == terminal
    lines = [line.rpartition("\r")[2] for line in said.replace("\r\n", "\n").splitlines()]
    assert "INFO: Silver(domain=sales, date=2026-11-01): 1 partition, 1 record, 0.0% invalid, 0 duplicates" in lines
    assert lake_in(lake.root).store.files("quality")
