"""Names, values and links from outside: none escapes the lake, none becomes SQL, code or markup."""

from __future__ import annotations

import ast
import html
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from torture.files import account, row, trouble
from torture.lakes import HEADERS, PROJECT, Place, Row, Workshop, ask, see

EVIL = [
    "../evil", "../../etc/passwd", "/etc/passwd", "..", ".", "'; drop table silver; --", '"; drop table silver; --',
    "a'b", 'a"b',
    "a;b", "a`b", "$(touch pwned)", "`touch pwned`", "a\\b", "a\nb", "a b", "%s", "{x}", "*", "?", "[a]", "~", "-x",
    "--root=/", "#",
    "sales'); copy (select 1) to 'pwned'; --", "<script>alert(1)</script>", "a,b", "\u202e", "é", "x" * 200, "con",
    "|touch pwned",
]  # fmt: skip
SAFE = ("json.loads", "json.load", "tomllib.loads", "re.compile", "YAML(typ='safe', pure=True).load")
"""Calls that only sound as if they made code of data."""


def names(short: bool, seed: int) -> Iterator[Row]:
    for what, function in (
        ("file names that lead elsewhere or are SQL, shell or markup", file_names),
        ("header names of that kind", header_names),
        ("values of that kind, in every column", values),
        ("arguments of that kind for domain, table, date and batch", arguments),
        ("links, directories and pipes in staging", odd_entries),
        ("scripts whose servers are checked for listening on loopback only", servers),
        ("modules searched for code that executes data", code_from_data),
    ):
        result = Row(what, seed)
        with Workshop() as workshop:
            place = workshop.new().create()
            (place.root.parent / "outside").mkdir(exist_ok=True)
            secret = place.root.parent / "outside/secret.csv"
            secret.write_text(f"{HEADERS['sales']}\n{row('SECRET')}\n")
            before = everything(place.root.parent)
            violations, count = function(place)
            changed = {path for path in everything(place.root.parent) ^ before if not path.startswith(f"{place.root}/")}
            strange = {
                path.name
                for path in place.root.iterdir()
                if path.name not in ("datalake", "local_output", "expectations", "log.txt")
            }
            result.add(violations, count)
            result.violations += (
                [f"something was written outside: {sorted(changed | strange)}"] if changed | strange else []
            )
        yield result


def everything(root: Path) -> set[str]:
    return {f"{path} {path.stat().st_size}" for path in root.rglob("*") if path.is_file()}


def file_names(place: Place) -> tuple[list[str], int]:
    # Prefix names that would be ignored as still being written.
    evil = [("f" if name[0] in "._/" else "") + name.replace("/", "_") for name in EVIL]
    for number, name in enumerate(evil):
        place.deliver(
            "sales", f"{name[:100]}{number}.csv", f"{HEADERS['sales']}\n{row(f'K{number}')}\nbad line\n".encode()
        )
    violations = trouble(place, place.run())
    found = ask(account, str(place.root))
    if sum(file["records"] for file in found["files"]) != 2 * len(evil):
        violations.append("records are missing")
    return violations + found["violations"], len(evil)


def header_names(place: Place) -> tuple[list[str], int]:
    for number, name in enumerate(EVIL):
        quoted = '"' + name.replace('"', '""') + '"'
        content = f"{HEADERS['sales']},{quoted},{quoted}\n{row(f'K{number}')},v{number},w{number}\n".encode()
        place.deliver("sales", f"sales_20261101_{number:06d}.csv", content)
    violations = trouble(place, place.run())
    found = ask(account, str(place.root), True)
    text = "\n".join(found["text"].values())
    violations += [
        f"the value below {name!r} is lost"
        for n, name in enumerate(EVIL)
        if f'"v{n}"' not in text or f'"w{n}"' not in text
    ]
    return violations + found["violations"], len(EVIL)


def values(place: Place) -> tuple[list[str], int]:
    """Deliver each as a value of every column; the pages must show them as text."""
    count = 0
    for domain, header in HEADERS.items():
        names, lines = header.split(","), []
        for number, value in enumerate(EVIL):
            for column in names:
                cells = dict.fromkeys(names, f"v{number}") | {"timestamp": "2026-11-01"} | {column: value}
                lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells.values()))
                count += 1
        place.deliver(domain, f"{domain}_20261101_120000.csv", lines)
    violations = trouble(place, place.run())
    violations += see_in_child(place)
    for page in place.root.glob("datalake/quality/**/*.html"):
        text = page.read_text()
        if "<script>alert" in text:
            violations.append(f"{page.name} holds a script of the data's")
        if "alert(1)" in text and html.escape("<script>alert(1)") not in text:
            violations.append(f"{page.name} shows markup as something else than text")
    return violations, count


def see_in_child(place: Place) -> list[str]:
    return ask(see, str(place.root))["troubles"]


def arguments(place: Place) -> tuple[list[str], int]:
    place.deliver("sales", "sales_20261101_120000.csv", f"{HEADERS['sales']}\n{row('a')}\n".encode())
    violations, count = [], 0
    for value in EVIL:
        for command in (
            ["DomainSilver", f"--domain={value}"],
            ["Bronze", f"--domain={value}", "--date=2026-11-01"],
            ["Bronze", "--domain=sales", f"--date={value}"],
            ["Silver", "--domain=sales", f"--date={value}"],
            ["Gold", f"--table={value}"],
            ["Generate", "--domain=sales", f"--batch={value}"],
        ):
            place.log.unlink(missing_ok=True)
            code = place.run(*command)
            count += 1
            if code == 0:
                violations.append(f"{command} succeeded")
            elif code < 0 or not re.search(
                r"unknown (domain|gold table)|expected a (date|batch)|usage: ", place.said()
            ):
                violations.append(f"{command} ended with {code}: {place.said()[-400:]}")
    return violations, count


def odd_entries(place: Place) -> tuple[list[str], int]:
    outside = place.root.parent / "outside"
    staging = place.root / "local_output/sales"
    place.deliver("sales", "sales_20261101_120000.csv", f"{HEADERS['sales']}\n{row('a')}\n".encode())
    (staging / "link.csv").symlink_to(outside / "secret.csv")
    (staging / "relative.csv").symlink_to("../../../outside/secret.csv")
    (staging / "nowhere.csv").symlink_to("/nowhere")
    (staging / "circle.csv").symlink_to("circle.csv")
    (staging / "device.csv").symlink_to("/dev/zero")
    (staging / "directory.csv").mkdir()
    (staging / "tree.csv").symlink_to(outside)
    os.mkfifo(staging / "pipe.csv")
    violations = trouble(place, place.run())
    found = ask(account_of_regular_files, str(place.root))
    if "SECRET" in found or "a" not in found:
        violations.append(f"silver holds {found}")
    # The same, but straight into bronze.
    (bronze,) = {path.parent for path in place.root.glob("datalake/bronze/sales/**/*.csv")}
    (bronze / "link.csv").symlink_to(outside / "secret.csv")
    os.mkfifo(bronze / "pipe.csv")
    violations += trouble(place, place.run())
    if "SECRET" in ask(account_of_regular_files, str(place.root)):
        violations.append("a link in bronze was followed")
    return violations, 10


def account_of_regular_files(root: str) -> list[str]:
    import pyarrow.parquet as pq

    return [key for path in Place(root).silver_files() for key in pq.ParquetFile(path).read().to_pydict()["sale_id"]]


def code_from_data(place: Place) -> tuple[list[str], int]:
    """The lake's code must not unpickle, evaluate or run data, nor start a shell."""
    forbidden = {"eval", "exec", "compile", "__import__", "loads", "load"}
    violations, count = [], 0
    for path in sorted((PROJECT / "lakejobs").rglob("*.py")):
        count += 1
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                risky = {"pickle", "marshal", "shelve", "yaml", "subprocess", "code", "dill", "joblib"}
                if path.name == "spark.py":
                    risky -= {"subprocess"}  # it asks Java for its version
                if risky & {n.partition(".")[0] for n in names}:
                    violations.append(f"{path.name}:{node.lineno} imports {names}")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called.rpartition(".")[2] in forbidden and called not in SAFE:
                    violations.append(f"{path.name}:{node.lineno} calls {called}")
                if called in ("os.system", "os.popen") or any(keyword.arg == "shell" for keyword in node.keywords):
                    violations.append(f"{path.name}:{node.lineno} starts a shell")
    return violations, count


def servers(place: Place) -> tuple[list[str], int]:
    """The servers that scripts start must listen on loopback only."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "LUIGID_PORT": str(port)}
    # A separate directory, so that no other luigid is found; the virtual environment is shared.
    for name in ("scripts", "setup.cfg", "luigi.cfg", ".venv"):
        (place.root / "datalake").mkdir(exist_ok=True)
        (place.root / "datalake" / name).symlink_to(PROJECT / name)
    where = place.root / "datalake"
    started = subprocess.run(
        ["bash", "scripts/luigid"], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    try:
        if started.returncode:
            return [f"luigid did not start: {started.stdout}{started.stderr}"], 1
        addresses = [address for address, found in listening() if found == port]
        violations = (
            []
            if addresses and all(a.startswith(("7F", "127.")) for a in addresses)
            else [f"luigid listens on {addresses}"]
        )
    finally:
        subprocess.run(["bash", "scripts/luigid", "stop"], cwd=where, env=environment, capture_output=True, check=False)
    return violations, 1


def listening() -> list[tuple[str, int]]:
    """The address and port of every listening socket on this machine."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                address, _, port = local.partition(":")
                found.append(
                    (socket.inet_ntoa(bytes.fromhex(address)[::-1]) if name == "tcp" else address, int(port, 16))
                )
    return found


FAMILIES = {"safety": names}
