"""CSV files of every kind seen in practice: every record is accounted for, or the file is reported as rejected."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import resource
import zipfile
from collections.abc import Iterator
from typing import Any

import hypothesis
from hypothesis import strategies as st

from lakejobs.storage import deliveries
from torture.lakes import HEADERS, Place, Row, Workshop, ask, fork, read_footer, read_json, say, see, seeded, spread
from torture.lakes import wait as wait_for

CONSTANT = 512 << 20
"""Extra bytes a run may need for chunks and what the engine keeps of them."""
HEADER = HEADERS["sales"]
COLUMNS = HEADER.split(",")
TEXT_COLUMNS = ["sale_id", "customer_id", "product_id", "product_name", "category", "payment_method", "status"]
REJECTED = "rejected"

NAUGHTY = [
    "NULL", "null", "None", "nil", "undefined", r"\N", "N/A", "true", "0", "-1", "1/0", "1e1000", "NaN", "Infinity",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;b&gt;", "'; drop table silver; --",
    "' or '1'='1",
    '" or ""="', '"', "'", "''", '""', "\\", "\\n", "%s%n%d", "%00", "{{7*7}}", "${x}", "{0.__class__}", "$(id)",
    "`id`",
    "../../etc/passwd", "C:\\CON", "=1+1", "=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-x", "a,b", "a;b", "a|b", "a\tb",
    "a\nb",
    "a\r\nb", "a\rb", "x" * 5000, "\u202eright to left", "zero\u200bwidth", "\ufeffmark", "e\u0301", "\u00e9",
    "\ufdfa",
    "\U0001d54c\U0001d55f\U0001d55a", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u7530\u4e2d\u3055\u3093",
    "\u0645\u0631\u062d\u0628\u0627", "\u0130\u0131\u1e9e\u00df", "\u00a0", "\u2028", "\x85", "\x7f", "\x01\x02",
    "\x1b[31m",
    "\x0b", "\x0c", "\x1a", "\ufffd", "\uffff", "Z\u0351\u036b\u0343\u036a", " inner  blanks ", "# no comment",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "00", "+5", "1e308", "1e-308", "1e400", "-1e15", "999999999999999", "9223372036854775807", "0.1",
    ".5", "5.",
    "9223372036854775808", "NaN", "nan", "Infinity", "-inf", "1,5", "1 000", "1_000", "0x1F", "٣", "½", "1e", "e1",
    "--1", "$5",
    "5%", "1.0000000000000000000000001", "5e-324", "1" * 400,
]  # fmt: skip
MOMENTS = [
    "0001-01-01T00:00:00", "0000-00-00", "9999-12-31T23:59:59.999999", "10000-01-01", "-0044-03-15", "1970-01-01",
    "1969-12-31",
    "2016-12-31T23:59:60Z", "2026-06-30T23:59:60", "2026-02-29", "2024-02-29", "2026-11-01T24:00:00",
    "2026-11-01T10:00:00+14:00",
    "2026-11-01T10:00:00-12:00", "2026-11-01T10:00:00+99:99", "2026-W44-7", "2026-305", "20261101T100000", "now",
    "epoch", "1e9",
    "2026-11-01T10:00:00.1234567890123", "2026-11-01 10:00:00 Europe/Berlin", "01/11/2026", "infinity",
]  # fmt: skip


def row(key: object, **other: str) -> str:
    values = dict(
        zip(COLUMNS, f"{key},2026-11-01T10:00:00,C1,P1,Lamp,Home,2,5.00,10.00,card,completed".split(","), strict=True)
    )
    return ",".join({**values, **other}.values())


def table(rows: list[list[str]], **dialect: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, **{"lineterminator": "\n", **dialect}).writerows(rows)
    return text.getvalue().encode()


def corpus() -> dict[str, tuple[bytes, int | str | None]]:
    """Files by description, each with its expected number of records (None: any), or REJECTED."""
    lines = [HEADER, row("a"), row("b"), row("c")]
    plain = "\n".join(lines) + "\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("sales.csv", plain)
    odd = ",".join(f' "{name.upper()}" ' for name in COLUMNS)
    cells = [line.split(",") for line in lines]
    texts = [[*row(n).split(",")[:4], 'a "b", c\nd\r\ne\rf', *row(n).split(",")[5:]] for n in range(9)]
    numbers = [[*row(n).split(",")[:6], number, number, number, "", ""] for n, number in enumerate(NUMBERS)]
    moments = [[str(n), moment, *row(n).split(",")[2:]] for n, moment in enumerate(MOMENTS)]
    made: dict[str, tuple[bytes, int | str | None]] = {
        "plain": (plain.encode(), 3),
        "CRLF": ("\r\n".join(lines).encode() + b"\r\n", 3),
        "lone CR": ("\r".join(lines).encode(), 3),
        "all line ends": (f"{lines[0]}\r\n{lines[1]}\n{lines[2]}\r{lines[3]}\n\r\n\n".encode(), 3),
        "no final newline": (plain[:-1].encode(), 3),
        "blank lines": (plain.replace("\n", "\n\n\n").encode(), 3),
        "blank lines first": (b"\n\r\n\n" + plain.encode(), 3),
        "BOM": (b"\xef\xbb\xbf" + plain.encode(), 3),
        "BOM and quotes": (b'\xef\xbb\xbf"sale_id"' + plain.encode()[7:], 3),
        "BOM alone": (b"\xef\xbb\xbf", 0),
        "empty": (b"", 0),
        "newlines only": (b"\n" * 50, 0),
        "header only": (HEADER.encode(), 0),
        "header and newline": (HEADER.encode() + b"\r\n", 0),
        "UTF-16 with BOM": (plain.encode("utf-16"), REJECTED),
        "UTF-16 without BOM": (plain.encode("utf-16-le"), REJECTED),
        "UTF-32": (plain.encode("utf-32"), REJECTED),
        "Latin-1": (plain.replace("Lamp", "Lämp").encode("latin-1"), 3),
        "Windows-1252": (plain.replace("Lamp", "Lamp €").encode("cp1252"), 3),
        "bytes that are no text": (plain.encode().replace(b"Lamp", bytes(range(128, 256))), 3),
        "UTF-8 cut off": (plain.encode() + b"d\xe2\x82", 4),
        "overlong UTF-8": (plain.encode().replace(b"Lamp", b"\xc0\xaf"), 3),
        "surrogates in UTF-8": (plain.encode().replace(b"Lamp", b"\xed\xa0\x80"), 3),
        "NUL in a value": (plain.encode().replace(b"Lamp", b"La\0mp"), REJECTED),
        "NUL at the end": (plain.encode() + b"\0" * 100, REJECTED),
        "Ctrl-Z at the end": (plain.encode() + b"\x1a", 4),
        "gzip": (gzip.compress(plain.encode()), REJECTED),
        "bzip2": (bz2.compress(plain.encode()), REJECTED),
        "xz": (lzma.compress(plain.encode()), REJECTED),
        "zip": (archive.getvalue(), REJECTED),
        "semicolons": (plain.replace(",", ";").encode(), REJECTED),
        "tabs": (plain.replace(",", "\t").encode(), REJECTED),
        "bars": (plain.replace(",", "|").encode(), REJECTED),
        "sep= first": (b"sep=,\n" + plain.encode(), REJECTED),
        "JSON": (b'[{"sale": 1}]', REJECTED),
        "HTML": (b"<!doctype html><table><tr><td>sale</td></tr></table>", REJECTED),
        "no header": ("\n".join(lines[1:]).encode(), REJECTED),
        "another table's header": (b"movement_id,supplier_id,cost\n1,2,3\n", REJECTED),
        "one known column": (b"sale_id\nx\ny\n", REJECTED),
        "two known columns": (b"sale_id,timestamp\nx,2026-11-01T10:00:00\ny,\n", 2),
        "duplicate header names": (f"{HEADER},quantity,sale_id\n{row('a')},7,z\n".encode(), 1),
        "all headers the same": (("sale_id," * 10 + "sale_id\n" + "x," * 10 + "x\n").encode(), REJECTED),
        "a header ten times": (("sale_id," * 10 + "timestamp\n" + "x," * 10 + "\n").encode(), 1),
        "nameless columns": (f"{HEADER},,,\n{row('a')},1,2,3\n".encode(), 1),
        "header with blanks, quotes and capitals": (plain.replace(HEADER, odd).encode(), 3),
        "header again in the middle": (plain.encode() + plain.encode(), 7),
        "too few and too many fields": (f"{plain}d\nd,e\n{row('f')},g\n{',' * 30}\n".encode(), 7),
        "commas only": (f"{plain}{',' * 10}\n{',' * 11}\n{',' * 9}\n".encode(), 6),
        "quotes, commas and newlines in quotes": (table([COLUMNS, *texts]), 9),
        "everything quoted": (table(cells, quoting=csv.QUOTE_ALL, lineterminator="\r\n"), 3),
        "quotes in the middle of fields": (plain.replace("Lamp", '5" Lamp').encode(), 3),
        "text behind a quote": (plain.replace("Lamp", '"La"mp').encode(), 3),
        "a quote that never ends": (f'{plain}d,"e\n{row("f")}\n{row("g")}\n'.encode(), 6),
        "a quote that ends the file": ((plain + '"').encode(), 4),
        "quotes only": ((plain + '"\n""\n"""\n""""\n').encode(), 5),
        "backslashes for escapes": (plain.replace("Lamp", r'"La\"mp"').encode(), 3),
        "single quotes": (plain.replace("Lamp", "'La,mp'").encode(), 3),
        "blanks around quotes": (plain.replace("Lamp", '  "La,mp"  ').encode(), 3),
        "control characters": (plain.replace("Lamp", "".join(map(chr, range(1, 9)))).encode(), 3),
        "line separators of Unicode": (plain.replace("Lamp", "a\u2028b\u2029c\x85d\x0be\x0cf").encode(), 3),
        "comments": (f"{plain}# the end\n".encode(), 4),
        "a field of 900 KB": (plain.replace("Lamp", "x" * 900_000, 1).encode(), 3),
        "a quoted field of 3 MB": (plain.replace("Lamp", '"' + "x\n" * 1_500_000 + '"', 1).encode(), None),
        "numbers": (table([COLUMNS, *numbers]), len(NUMBERS)),
        "moments": (table([COLUMNS, *moments]), len(MOMENTS)),
    }  # fmt: skip
    return made


def dialects(short: bool, seed: int) -> Iterator[Row]:
    """Deliver one file to each lake, so that files cannot affect each other."""
    made = corpus()
    names = sorted(made)
    if short:
        names = seeded(seed, "dialects").sample(names, 12)
    result = Row("CSV files of odd dialects and content", seed)
    with Workshop() as workshop:
        result.add(spread(lambda name: one_file(workshop, *made[name]), names), len(names))
    yield result
    result = Row("naughty strings, each in every text column", seed)
    with Workshop() as workshop:
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
            result.add(naughty(workshop.new().create(), quoting), len(NAUGHTY) * len(TEXT_COLUMNS))
    yield result


def one_file(workshop: Workshop, content: bytes, expected: int | str | None) -> list[str]:
    place = workshop.new().create()
    place.deliver("sales", "sales_20261101_120000.csv", content)
    code = place.run()
    violations = trouble(place, code)
    known = ask(account, str(place.root))
    violations += known["violations"]
    (entry,) = known["files"]
    if expected == REJECTED:
        if not entry["rejected"]:
            violations.append(f"it was to be rejected, but {entry['records']} records were read")
        elif entry["rejected"] not in place.said():
            violations.append("it was rejected without a word")
    elif entry["rejected"]:
        violations.append(f"it was rejected: {entry['rejected']}")
    elif expected is not None and entry["records"] != expected:
        violations.append(f"{entry['records']} records were read, not {expected}")
    place.run()
    if "Did not run any tasks" not in place.said()[-500:]:
        violations.append("the lake is not complete afterwards")
    place.remove()
    return violations


def trouble(place: Place, code: int) -> list[str]:
    return [f"the run ended with {code}: {place.said()[-1500:]}"] if code or "Traceback" in place.said() else []


def account(root: str, with_text: bool = False) -> dict[str, Any]:
    """Account for every sales file and record: each record must have exactly one fate."""
    import pyarrow.parquet as pq

    place, violations, files = Place(root), see(root)["troubles"], []
    for path in sorted(place.root.glob("datalake/bronze/sales/**/_manifest.json")):
        files += [
            {
                "name": deliveries.original_name(entry["name"]),
                "records": entry["records"],
                "rejected": entry["inspection"]["rejected"],
            }
            for entry in read_json(path)["files"]
        ]
    staged = {path.name for path in place.root.glob("local_output/sales/*.csv")}
    if staged != {file["name"] for file in files}:
        violations.append(f"landed: {sorted(file['name'] for file in files)} of {sorted(staged)}")
    landed = {
        (deliveries.original_name(path.name), path.read_bytes())
        for path in place.root.glob("datalake/bronze/sales/**/*.csv")
    }
    for path in place.root.glob("local_output/sales/*.csv"):
        if (path.name, path.read_bytes()) not in landed:
            violations.append(f"{path.name} is not in bronze byte for byte")
    footers = [read_footer(path) for path in place.root.glob("datalake/silver/sales/**/*.parquet")]
    rows = duplicates = 0
    text: dict[str, list[str]] = {}
    for path in place.root.glob("datalake/silver/sales/**/*.parquet"):
        columns = pq.ParquetFile(path).read().to_pydict()
        rows += len(columns["sale_id"])
        for number, source in enumerate(columns["source_file"] if with_text else ()):
            text.setdefault(deliveries.original_name(source.rpartition("/")[2]), []).append(
                " ".join(str(values[number]) for values in columns.values())
            )
    duplicates = sum(footer["duplicates"] for footer in footers)
    records = sum(file["records"] for file in files)
    if records != rows + duplicates:
        violations.append(f"{records} records became {rows} rows and {duplicates} duplicates")
    return {
        "files": files,
        "violations": violations,
        "duplicates": duplicates,
        "text": {k: "\n".join(v) for k, v in text.items()},
    }


def naughty(place: Place, quoting: int) -> list[str]:
    rows, expected = [COLUMNS], {}
    for number, string in enumerate(NAUGHTY):
        for column in TEXT_COLUMNS:
            values = dict(zip(COLUMNS, row(f"{number} {column}").split(","), strict=True))
            marker = "category" if column == "payment_method" else "payment_method"
            values[marker] = f"{number} {column}"
            values[column] = string
            rows.append(list(values.values()))
            expected[values[marker]] = string.strip(" \t")
    place.deliver("sales", "sales_20261101_120000.csv", table(rows, quoting=quoting, lineterminator="\r\n"))
    code = place.run()
    violations = trouble(place, code)
    found = ask(marked, str(place.root))
    for key, string in expected.items():
        column = key.partition(" ")[2]
        if found.get(key, {}).get(column) != (string or None):
            violations.append(f"{string[:40]!r} in {column} became {str(found.get(key, {}).get(column))[:60]!r}")
    return violations


def marked(root: str) -> dict[str, dict[str, str]]:
    import pyarrow.parquet as pq

    found = {}
    for path in Place(root).silver_files():
        for values in pq.ParquetFile(path).read().select(TEXT_COLUMNS).to_pylist():
            for marker in ("category", "payment_method"):
                if re.fullmatch(r"\d+ \w+", values[marker] or ""):
                    found[values[marker]] = values
    return found


# ------------------------------------------------------------------------------------------------ size


def giants(short: bool, seed: int) -> Iterator[Row]:
    """Files with one huge dimension. A run may need twenty times their size on top of what a small run needs."""
    megabytes = 5 if short else 100
    columns = 20_000 if short else 100_000
    size = megabytes << 20
    names = ",".join(f"extra{number}" for number in range(columns - len(COLUMNS)))
    wide = ",v" * (columns - len(COLUMNS))
    head, tail = f"{HEADER}\n{row('a')}\n".encode(), f"\n{row('b')}\n".encode()
    made = {
        f"{columns:,} columns": (f"{HEADER},{names}\n{row('a')}{wide}\n{row('b')}{wide}\n".encode(), 2),
        f"a line of {megabytes} MB": (head + b"x" * size + tail, 3),
        f"a line of {megabytes} MB of commas": (head + b"," * size + tail, None),
        f"a line of {megabytes} MB of quotes": (head + b'"' * size + tail, None),
        f"a field of {megabytes} MB": (head + row("c", product_name="x" * size).encode() + tail, None),
        f"a quote open over {megabytes} MB": (head + b'"' + (b"x" * 59 + b"\n") * (size // 60) + tail, None),
        f"a header of {megabytes} MB": (b"x" * size, REJECTED),
        f"{megabytes} MB of newlines": (head + b"\n" * size + tail, 2),
        f"{size // 100:,} lines of one letter": (head + b"x\n" * (size // 100) + tail, 2 + size // 100),
    }
    result = Row(
        f"files with {columns:,} columns, or {megabytes} MB in a line, a field, a header, …; memory measured", seed
    )
    with Workshop() as workshop:
        usual = ask(peak_of_a_run, str(workshop.new().create().root), f"{HEADER}\n{row('a')}\n", timeout=600)
        for name, (content, expected) in made.items():
            place = workshop.new().create()
            place.deliver("sales", "sales_20261101_120000.csv", content)
            try:
                code, peak = run_and_measure(place)
            except TimeoutError:
                result.add([f"{name}: the run hangs"])
                continue
            violations = trouble(place, code)
            known = ask(account, str(place.root), timeout=600)
            violations += known["violations"]
            (entry,) = known["files"]
            if (expected == REJECTED) != bool(entry["rejected"]):
                violations.append(f"rejected: {entry['rejected']}")
            elif isinstance(expected, int) and entry["records"] != expected:
                violations.append(f"{entry['records']:,} records were read, not {expected:,}")
            if peak - usual > 20 * len(content) + CONSTANT:
                violations.append(f"needs {(peak - usual) >> 20} MB more than a small file")
            say(f"    {name}: {(peak - usual) >> 20} MB more than a small file")
            result.add([f"{name}: {violation}" for violation in violations])
            place.remove()
    yield result


def run_and_measure(place: Place) -> tuple[int, int]:
    """Run, and return the exit code and the peak memory in bytes."""
    answer = place.root / "peak"

    def run() -> int:
        pid = fork(place.command())
        code = wait_for(pid, 900)
        answer.write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024))
        return code

    code = wait_for(fork(run), 960)
    return code, int(answer.read_text()) if answer.exists() else 0


def peak_of_a_run(root: str, content: str) -> int:
    place = Place(root)
    place.deliver("sales", "sales_20261101_120000.csv", content.encode())
    return run_and_measure(place)[1]


# ------------------------------------------------------------------------------------------------ fuzzing

END = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])
FRAME = st.sampled_from(
    [
        "{}",
        "{}",
        "{}",
        '"{}"',
        '"{},{}"',
        '"{}\n{}"',
        '"a""{}"',
        '{}"',
        '"{}',
        ' "{}" ',
        '"{}"x',
        "'{}'",
        "\\{}",
        "{}\\",
        "é{}",
        " {} ",
        "{}\t",
    ]
)
JUNK = st.binary(max_size=12).map(lambda data: data.replace(b"\0", b"0"))
TOKEN = re.compile(r"t\d+q")


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A header, then fields with tokens in all kinds of quoting, with random bytes in between."""
    made, number = b"", 0
    for _ in range(draw(st.integers(0, 12))):
        fields = []
        for _ in range(draw(st.sampled_from([11] * 6 + [0, 1, 2, 10, 12, 14]))):
            fields.append(draw(FRAME).format(f"t{number}q", f"t{number + 1}q"))
            number += 2
        made += (",".join(fields) + draw(END)).encode(draw(st.sampled_from(["utf-8"] * 5 + ["cp1252"])))
        if draw(st.integers(0, 9)) == 0:
            made += draw(JUNK)
    return f"{HEADER}{draw(END)}".encode() + made


FILES = st.lists(
    st.one_of(
        contents(), contents(), contents(), st.binary(max_size=300).map(lambda data: f"{HEADER}\n".encode() + data)
    ),
    min_size=15,
    max_size=25,
)
"""The files that land in one lake."""


def fuzz(short: bool, seed: int) -> Iterator[Row]:
    """Files drawn by hypothesis, many to a lake. Every token must be in silver, or its file rejected."""
    result = Row("files drawn by hypothesis, bytes and fields in odd frames", seed)
    with Workshop() as workshop:

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=4 if short else 120,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
            report_multiple_bugs=False,
        )
        @hypothesis.given(FILES)
        def lands(files: list[bytes]) -> None:
            result.add(land_all(workshop.new().create(), files), len(files))

        lands()
    yield result


def land_all(place: Place, files: list[bytes]) -> list[str]:
    for number, content in enumerate(files):
        # A separate landing date for each, so that files cannot affect each other.
        place.deliver("sales", f"sales_202601{1 + number:02d}_120000.csv", content)
    code = place.run()
    violations = trouble(place, code)
    if not violations:
        known = ask(account, str(place.root), True)
        violations += known["violations"]
        for file in known["files"] if not known["duplicates"] else ():
            content = files[int(file["name"][12:14]) - 1].decode("latin-1")
            if not file["rejected"]:
                lost = set(TOKEN.findall(content)) - set(TOKEN.findall(known["text"].get(file["name"], "")))
                violations += [f"lost {sorted(lost)[:3]} of {content[:300]!r}"] if lost else []
            elif "\0" not in content:
                violations.append(f"rejected ({file['rejected']}): {content[:300]!r}")
    place.remove()
    return violations


FAMILIES = {"dialects": dialects, "giants": giants, "fuzz": fuzz}
