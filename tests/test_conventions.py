"""The project's conventions; each test names what is missing."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import DOMAINS, PROJECT

from lakejobs.quality.evaluation import Validation
from lakejobs.quality.suite import SEVERITIES, load_suite
from lakejobs.tables import domains_of, tables

README = (PROJECT / "README.md").read_text()

# A package, or a module beside the packages, may import only what precedes it here.
ROOMS = [
    "messages", "model", "config", "domains", "project", "tables", "storage", "quality", "engine", "freshness",
    "pages", "layers", "explain", "luigi_output", "task_parameters", "tasks", "__init__", "commands",
]  # fmt: skip
SOURCES = [path for path in sorted((PROJECT / "lakejobs").glob("**/*.py")) if "dags" not in path.parts]


def room_of(path: Path) -> str:
    return path.relative_to(PROJECT / "lakejobs").parts[0].removesuffix(".py")


@pytest.mark.parametrize("name", DOMAINS)
def test_every_domain_has_what_it_needs(name):
    assert (PROJECT / f"expectations/{name}.json").exists(), f"{name} needs a suite of rules"
    assert list((PROJECT / "tests/golden").glob(f"*/input/{name}")), f"{name} needs a golden case"
    assert any(name in domains_of(table) for table in tables().values()), f"{name} is in no gold table"
    assert f"`{name}`" in NAMED, f"{name} is not in README.md or {LAKE}"
    dag = (PROJECT / "lakejobs/dags/data_lake_pipeline.py").read_text()
    assert f'"{name}"' in dag, f"no task of the Airflow schedule generates {name}"


@pytest.mark.parametrize("name", DOMAINS)
def test_every_rule_has_a_code_and_a_note_and_loads(name, monkeypatch):
    monkeypatch.chdir(PROJECT)
    suite = load_suite(DOMAINS[name])
    Validation(suite, DOMAINS[name])
    content = json.loads((PROJECT / f"expectations/{name}.json").read_text())
    for rule in content["expectations"]:
        assert rule.get("notes"), f"{name}: {rule['meta']['code']} needs a note for people"
        assert rule["severity"] in SEVERITIES


@pytest.mark.parametrize("name", tables())
def test_every_gold_table_has_a_grain_a_note_and_a_place(name):
    table = tables()[name]
    third = table.sql.splitlines()[2]
    assert third.startswith("-- One row per "), f"{name}.sql says its grain in words on the third line"
    assert f"`{name}`" in NAMED, f"{name} is not in README.md or {LAKE}"
    assert list((PROJECT / "tests/golden").glob(f"*/expect/gold/{name}.csv")), f"{name} is in no golden case"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_one_way(path):
    here = room_of(path)
    assert here in ROOMS, f"{here} has no place in the order of rooms"
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] != "lakejobs":
            continue
        below = (node.module or "").split(".")[1:]
        for name in [below[0]] if below else [alias.name for alias in node.names]:
            if name in ROOMS:
                assert ROOMS.index(name) <= ROOMS.index(here), f"{here} imports {name}, which comes after it"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_the_storage_is_touched_in_one_place(path):
    """The project's own files, and files that a command writes for a person, are not part of the lake."""
    if room_of(path) not in ("storage", "project", "commands"):
        found = re.findall(
            r"(?<![\w.])open\(|\bos\.(?!environ|_exit|register_at_fork)\w+|\b(?:pathlib|fcntl|shutil|tempfile)\b|\bglob\."
            r"|\b(?:from glob import|import glob)\b",
            path.read_text(),
        )
        assert not found, f"{path.name} touches the storage by itself: {found}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_engine_is_named_outside_its_room(path):
    # The settings choose one by its name, and a file for SQL tools has one as its suffix.
    if room_of(path) not in ("engine", "commands", "config"):
        text = path.read_text().replace("lake.duckdb", "")
        assert not re.search(r"duckdb", text, re.IGNORECASE), f"{path.name} names an engine"


def test_nothing_loads_code_from_data():
    for path in SOURCES:
        assert not re.search(r"\b(eval|exec|pickle|marshal|yaml\.load)\b\(?", path.read_text()), path.name


def test_the_top_level_is_as_agreed():
    names = {path.name for path in PROJECT.iterdir() if not path.name.startswith(".")}
    made_by_runs = {"datalake", "local_output", "lakejobs.egg-info"}
    assert names - made_by_runs == {
        "setup.cfg",
        "pyproject.toml",
        "lakejobs",
        "luigi.cfg",
        "expectations",
        "tests",
        "scripts",
        "README.md",
    }


def test_the_settings_file_names_every_setting_with_its_default():
    import configparser

    from lakejobs.config import lake as settings

    read = configparser.ConfigParser()
    read.read(PROJECT / "luigi.cfg")
    for name, parameter in settings.get_params():
        assert name in read["lake"], f"luigi.cfg does not name [lake] {name}"
        assert parameter.parse(read["lake"][name]) == parameter.normalize(parameter._default), (
            f"[lake] {name} has another default"
        )


LAKE = "lakejobs/README.md"
# Domains and tables must be mentioned in README.md or in the page about the lake.
NAMED = README + (PROJECT / LAKE).read_text()
PAGES = [
    page
    for page in sorted(PROJECT.glob("**/*.md"))
    if not any(part.startswith((".", "datalake", "build")) for part in page.relative_to(PROJECT).parts)
]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def test_the_readme_is_a_front_door():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page):
    for path, section in LINK.findall(FENCED.sub("", page.read_text())):
        target = page.parent / path if path else page
        assert target.exists(), path
        if section:
            headings = re.findall(r"^#+ (.+)$", FENCED.sub("", target.read_text()), re.MULTILINE)
            # GitHub's anchors
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert section in anchors, f"{path} has no section {section}"


def test_scripts_are_executable():
    for path in (PROJECT / "scripts").iterdir():
        if path.is_file() and not path.suffix:
            assert path.stat().st_mode & 0o111, path.name


def test_paths_are_of_no_machine():
    words = re.compile(r"/(?:root|home|work|Users)/\w")
    for path in Path(PROJECT).glob("**/*"):
        if path.suffix in (".py", ".md", ".cfg", ".sh", ".sql", ".txt", ".json") and not any(
            part.startswith(".") or part in ("datalake", "local_output") for part in path.relative_to(PROJECT).parts
        ):
            assert not words.search(path.read_text(errors="replace")), path
