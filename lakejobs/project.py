"""The project: the domains and gold tables that `[lake] domains` and `[lake] tables` name.

Each setting is a comma-separated list of directories and importable packages. An entry is a directory if it exists
relative to the working directory or contains a `/`; anything else is a package. A domain's module defines `DOMAIN`; a
module whose name begins with `_` is a helper of other modules. A gold table is an SQL file.

`ORDER` in a package's `__init__.py` names the modules that come first; the others follow by name.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import luigi
from luigi.cmdline_parser import CmdlineParser

from lakejobs.config import lake as settings
from lakejobs.messages import LakeError
from lakejobs.model import Domain

SHIPPED = "lakejobs.domains"


@dataclass(frozen=True)
class Place:
    """One entry of a setting."""

    name: str
    """As written in the setting."""
    package: str | None
    """The package's name; None for a directory."""
    directories: tuple[str, ...]

    def files(self, suffix: str) -> list[tuple[str, str]]:
        """Name without the suffix, and path, of each file that ends in it; sorted by name."""
        found: dict[str, str] = {}
        for directory in self.directories:
            for file in _listing(directory):
                if file.endswith(suffix) and not file.startswith("."):
                    found.setdefault(file.removesuffix(suffix), f"{directory}/{file}")
        return sorted(found.items())


@dataclass(frozen=True)
class Domains:
    """What the modules of a project's domains define."""

    domains: Mapping[str, Domain]
    broken: Mapping[str, str]
    """What is wrong with the others, by domain or module name."""
    shipped: frozenset[str]
    """The domains that come with lakejobs."""


def domains() -> Mapping[str, Domain]:
    """Every domain by name, except those whose module is broken."""
    return _found().domains


def broken_domains() -> Mapping[str, str]:
    """What is wrong with the modules of the other domains, by domain or module name."""
    return _found().broken


def is_shipped(domain: str) -> bool:
    """Whether a domain comes with lakejobs."""
    return domain in _found().shipped


def shipped_suite(domain: str) -> str | None:
    """Path of the suite that comes with a domain of lakejobs; None for a project's own domain, or if it is missing."""
    path = os.path.join(os.path.dirname(__file__), "expectations", f"{domain}.json")
    return path if is_shipped(domain) and exists(path) else None


def table_sources() -> tuple[tuple[str, str, str], ...]:
    """Name, path and text of every gold table's SQL file, sorted by name."""
    return _table_sources(*_asked("tables"))


def table_files(suffix: str) -> list[tuple[str, str]]:
    """Table name and path of the files beside the SQL that end in `suffix`, such as `.test.yaml`."""
    return [found for place in _places("tables", settings().tables) for found in place.files(suffix)]


def _found() -> Domains:
    return _load_domains(*_asked("domains"))


def _asked(setting: str) -> tuple[str, object, object, str]:
    """Everything a setting's value depends on, as a cache key: reading the section itself takes far longer, and domains
    are looked up all the time."""
    text = luigi.configuration.get_config().get("lake", setting, None)
    return setting, CmdlineParser.get_instance(), text, os.getcwd()


@lru_cache(maxsize=16)
def _load_domains(setting: str, *asked: object) -> Domains:
    return load_domains(getattr(settings(), setting), os.getcwd())


@lru_cache(maxsize=16)
def _table_sources(setting: str, *asked: object) -> tuple[tuple[str, str, str], ...]:
    found: list[tuple[str, str, str]] = []
    for place in _places(setting, getattr(settings(), setting)):
        found += [(name, shown(path), read_text(path)) for name, path in place.files(".sql")]
    return tuple(sorted(found))


@cache
def load_domains(setting: str, working_directory: str) -> Domains:
    """Load the modules that a value of `[lake] domains` names, once per process."""
    found: dict[str, Domain] = {}
    paths: dict[str, str] = {}
    broken: dict[str, str] = {}
    shipped = set()
    for place in _places("domains", setting):
        for module, path in _modules(place):
            try:
                domain = _load(place, module, path)
            except LakeError as error:
                broken[module] = str(error)
                continue
            if domain.name in paths:
                broken[domain.name] = (
                    f"{shown(paths[domain.name])} and {shown(path)} both define the domain {domain.name}; rename one "
                    "of them, or remove a directory from [lake] domains"
                )
                found.pop(domain.name, None)
                continue
            paths[domain.name] = path
            found[domain.name] = domain
            if place.package == SHIPPED:
                shipped.add(domain.name)
    # If two modules claim the same domain and one is broken, use neither: it is unclear which is meant.
    return Domains({name: found[name] for name in found if name not in broken}, broken, frozenset(shipped))


def _modules(place: Place) -> Iterator[tuple[str, str]]:
    """Name and path of the modules that define a domain, in order."""
    found = {name: path for name, path in place.files(".py") if not name.startswith("_")}
    order: tuple[str, ...] = ()
    if place.package:
        order = getattr(importlib.import_module(place.package), "ORDER", ())
    for name in [*(name for name in order if name in found), *(name for name in found if name not in order)]:
        yield name, found[name]


def _load(place: Place, module: str, path: str) -> Domain:
    """The domain a module defines. Raises LakeError with the broken line."""
    try:
        loaded = importlib.import_module(f"{place.package}.{module}") if place.package else _load_file(module, path)
    except (Exception, SystemExit) as error:
        raise LakeError(f"{_where(error, place, path)}: {_what(error)}") from error
    try:
        domain = loaded.DOMAIN
    except AttributeError:
        raise LakeError(
            f"{shown(path)} defines no DOMAIN; add DOMAIN = Domain(…), or, if it only helps other modules, begin its "
            f"name with _: _{module}.py"
        ) from None
    if not isinstance(domain, Domain):
        raise LakeError(f"{shown(path)}: expected DOMAIN to be a lakejobs.model.Domain, got {type(domain).__name__}")
    return domain


def _load_file(module: str, path: str) -> types.ModuleType:
    """Load a module from a directory. It can import its siblings, and does not hide modules that others import."""
    directory = os.path.dirname(os.path.abspath(path))
    package = f"_lakejobs_{directory.encode().hex()}"
    if package not in sys.modules:
        # `from . import _money` finds siblings in this package, `import _money` at the end of the path.
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [directory]
        sys.path.append(directory)
    name = f"{package}.{module}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    loaded = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[name]
        raise
    return loaded


def _where(error: BaseException, place: Place, path: str) -> str:
    """The project's own file and line that an error comes from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown(error.filename)}, line {error.lineno}"
    own = tuple(os.path.abspath(directory) + os.sep for directory in place.directories)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if os.path.abspath(frame.filename).startswith(own)
    ]
    return f"{shown(frames[-1].filename)}, line {frames[-1].lineno}" if frames else shown(path)


def _what(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return error.msg
    # Domain's own errors are already complete messages.
    said = " ".join(str(error).split())
    return said if type(error) is ValueError and said.startswith("domain ") else f"{type(error).__name__}: {said}"


def _places(setting: str, value: str) -> list[Place]:
    """The entries of a setting."""
    entries = [entry for entry in dict.fromkeys(part.strip() for part in value.split(",")) if entry]
    if not entries:
        raise LakeError(f"[lake] {setting} is empty; expected directories or packages, separated by commas")
    return [_place(setting, entry) for entry in entries]


def _place(setting: str, entry: str) -> Place:
    if os.path.isdir(entry):
        return Place(entry, None, (entry.rstrip("/") or "/",))
    if "/" in entry:
        raise LakeError(f"[lake] {setting} names the directory {entry}, which does not exist")
    try:
        spec = importlib.util.find_spec(entry)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        raise LakeError(
            f"[lake] {setting} names {entry}, which is neither a directory in {os.getcwd()} nor an importable package"
        )
    if spec.submodule_search_locations is None:
        raise LakeError(f"[lake] {setting} names {entry}, which is a module; name the package or directory it is in")
    return Place(entry, entry, tuple(spec.submodule_search_locations))


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        raise LakeError(f"{shown(directory)} cannot be read: {error.strerror}") from None


def exists(path: str) -> bool:
    """Whether a file of the project exists. Raises LakeError if the disk does not tell."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise LakeError(f"{shown(path)} cannot be read: {error.strerror}") from None
    return True


def read_text(path: str) -> str:
    """The text of a project file. Raises LakeError if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except OSError as error:
        raise LakeError(f"{shown(path)} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LakeError(f"{shown(path)} is not UTF-8 text") from None


def shown(path: str) -> str:
    """A path as messages show it: relative if it is below the working directory, else absolute."""
    absolute = os.path.abspath(path)
    return os.path.relpath(absolute) if absolute.startswith(os.getcwd() + os.sep) else absolute
