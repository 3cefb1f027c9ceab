"""Test the tests: make small changes to the code, each of which some test should notice.

usage: scripts/torture mutants [--seed N] [--sample N] [--jobs N] [--quick] [module …]

Draws a sample of all possible changes, except to progress and log messages. Every mutant runs in a fork of a process
that has imported the libraries: first the tests that notice most mutants in little time, then all tests of the lake's
content. Lists the mutants that no test notices.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.util
import itertools
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
MODULES = (
    "storage.local", "freshness.domain_state", "layers.bronze", "layers.silver", "layers.gold", "engine.local",
    "engine.partitions", "quality.evaluation",
)  # fmt: skip
QUICK = [
    "tests/test_golden.py",
    "tests/test_real_data.py",
    "tests/test_promises.py::test_a_file_delivered_again_under_its_name_is_landed_beside_the_first",
    "tests/test_promises.py::test_the_latest_timestamp_wins_then_the_later_file_then_the_later_line",
    "tests/test_promises.py::test_a_second_run_does_nothing",
    "tests/test_promises.py::test_a_late_row_changes_its_own_day_and_nothing_else",
    "tests/test_promises.py::test_a_truncated_silver_file_is_made_again_not_read[-100]",
    "tests/test_promises.py::test_a_damaged_snapshot_is_made_again_and_gone",
    "tests/test_promises.py::test_snapshots_are_kept_for_looking_back_and_no_more",
    "tests/test_bad_input.py::test_uniqueness_is_judged_within_a_partition",
]
ALL = ["tests/test_promises.py", "tests/test_bad_input.py", "tests/test_command_line.py", "tests/test_report.py"]
MOST_SECONDS = 900
SAYING = ("on_progress", "log", "tell")

COMPARISONS = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
SUMS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.BitOr: ast.BitAnd}


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield every change to a module: its line, its description, and the changed source."""
    tree = ast.parse(source)
    said = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _begins(node.value.func) in SAYING
        for part in ast.walk(node)
    }
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in said:
            continue
        for what, change in changes(node):
            other = copy.deepcopy(tree)
            twin = next(found for place, found in enumerate(ast.walk(other)) if place == number)
            change(twin)
            yield getattr(node, "lineno", 0), what, ast.unparse(ast.fix_missing_locations(other))


def _begins(function: ast.expr) -> str:
    """The first name of `log.info`, `report`, …"""
    return ast.unparse(function).partition(".")[0]


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    def put(name: str, value: object) -> object:
        return lambda twin: setattr(twin, name, value)

    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            yield f"{ast.unparse(node)}: the comparison turned round", put("ops", [COMPARISONS[type(op)]()])
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield f"{ast.unparse(node)}: and/or exchanged", put("op", other)
        case ast.BinOp() if type(node.op) in SUMS and not isinstance(node.left, ast.Name | ast.Subscript):
            yield f"{ast.unparse(node)}: another operator", put("op", SUMS[type(node.op)]())
        case ast.Constant(value=bool()):
            yield f"{node.value}: {not node.value}", put("value", not node.value)
        case ast.Constant(value=int()):
            yield f"{node.value}: one more", put("value", node.value + 1)
        case ast.If() | ast.IfExp():
            yield f"if {ast.unparse(node.test)}: always", put("test", ast.Constant(True))
            yield f"if {ast.unparse(node.test)}: never", put("test", ast.Constant(False))
        case ast.UnaryOp(op=ast.Not()):
            yield f"{ast.unparse(node)}: without not", put("operand", ast.UnaryOp(ast.Not(), node.operand))
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield f"{ast.unparse(node)}: nothing returned", put("value", ast.Constant(None))
    if isinstance(node, ast.FunctionDef | ast.If | ast.With | ast.For):
        for place, statement in enumerate(node.body):
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Call)
                and _begins(statement.value.func) not in SAYING
            ):

                def drop(twin: ast.AST, place: int = place) -> None:
                    twin.body[place] = ast.Pass()  # type: ignore[attr-defined]

                yield f"{ast.unparse(statement)}: left out", drop


def tried(module: str, source: str, tests: list[str]) -> int:
    """Start a process that runs tests with a module's changed source and exits 1 if one fails; return its id."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.alarm(MOST_SECONDS)  # a mutant that hangs counts as noticed
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os.chdir(PROJECT)
        name = f"lakejobs.{module}"
        path = PROJECT / f"lakejobs/{module.replace('.', '/')}.py"

        class Finder:
            @staticmethod
            def find_spec(wanted: str, *_: object) -> object:
                return importlib.util.spec_from_loader(wanted, Loader(), origin=str(path)) if wanted == name else None

        class Loader:
            @staticmethod
            def create_module(_: object) -> None:
                return None

            @staticmethod
            def exec_module(made: object) -> None:
                made.__file__ = str(path)  # type: ignore[attr-defined]
                exec(compile(source, str(path), "exec"), made.__dict__)

        sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
        import pytest

        with tempfile.TemporaryDirectory() as directory:
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={directory}/t", *tests])
        os._exit(0 if code == 0 else 1)
    return pid


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/torture mutants")
    parser.add_argument("module", nargs="*", default=list(MODULES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="run only the tests that notice most in little time")
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for library in (
        "luigi.cmdline",
        "duckdb",
        "pandas",
        "pyarrow.parquet",
        "great_expectations",
        "hypothesis",
        "pytest",
    ):
        importlib.import_module(library)
    importlib.import_module("great_expectations.validator.validator")
    known = [
        (module, *mutant)
        for module in arguments.module
        for mutant in mutants((PROJECT / f"lakejobs/{module}.py").read_text())
    ]
    chosen = random.Random(arguments.seed).sample(known, min(arguments.sample, len(known)))
    tests = QUICK if arguments.quick else [*QUICK, *ALL]
    survivors, running, done = [], {}, 0
    coming = iter(chosen)
    while True:
        for module, line, what, source in itertools.islice(coming, arguments.jobs - len(running)):
            running[tried(module, source, tests)] = f"{module}.py:{line}: {what}"
        if not running:
            break
        pid, status = os.wait()
        mutant, done = running.pop(pid), done + 1
        noticed = os.waitstatus_to_exitcode(status) != 0
        if not noticed:
            survivors.append(mutant)
        print(f"{done}/{len(chosen)} {'noticed ' if noticed else 'SURVIVED'} {mutant}", flush=True)
    print(f"\n{len(known):,} mutants, {len(chosen)} tried, {len(chosen) - len(survivors)} noticed; not noticed:")
    print("\n".join(sorted(survivors)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
