"""Great Expectations' verdicts on rows and on partitions.

It evaluates the rules of a suite on frames with the columns that rules name; rows that an expectation finds unexpected
get its `meta.code`.

There are two kinds of expectations. Row-local ones validate each row by itself (not null, in a set, between, …) and may
see a partition in chunks, or only its new rows: what was counted for the stored ones is added. All others (uniqueness,
row counts, means, …) get the whole partition, as pandas reads it from silver's file, so their verdict is the same as
plain Great Expectations'. If a partition is too small or too empty to validate (one row has no z-score, NULLs have no
outliers), Great Expectations finds nothing unexpected, and so do we.

A critical rule withholds a partition if it fails as a table rule, or if fewer rows pass than its `mostly` requires.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lakejobs.messages import LakeError, few
from lakejobs.model import Domain
from lakejobs.quality import frames
from lakejobs.quality.importing import import_expectation, import_great_expectations
from lakejobs.quality.suite import Rule, Suite

if TYPE_CHECKING:
    import datetime as dt

    import numpy as np
    import pandas as pd
    import pyarrow as pa

EXAMPLE_VALUES = 20
EXAMPLE_ROWS = 5
# Row-level, but the verdict depends on other rows. So may that of an expectation from another package.
NOT_ROW_LOCAL = {
    "expect_column_values_to_be_unique",
    "expect_compound_columns_to_be_unique",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_be_decreasing",
    "expect_column_value_z_scores_to_be_less_than",
    "expect_column_values_to_not_be_outliers",
}
NOT_NULL = "expect_column_values_to_not_be_null"
OF_TYPE = {"expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list"}
# Errors of expectations that Great Expectations implements for databases only.
ONLY_SQL = re.compile("No provider found for .* using Pandas|does not currently support multiple named tables")


class Validation:
    """A suite's verdicts on the rows of some partitions, collected chunk by chunk."""

    def __init__(self, suite: Suite, domain: Domain) -> None:
        import_great_expectations()
        self.suite = suite
        self._domain = domain
        self._row_local: list[Rule] = []
        self._whole: list[Rule] = []
        self._configurations: dict[int, Any] = {}
        self.outcomes: dict[int, Outcome] = {}
        for rule in suite.rules:
            configuration, row_level, row_local = _configuration(suite, rule, domain)
            self._configurations[rule.position] = configuration
            self.outcomes[rule.position] = Outcome(rule, row_level, row_local)
            (self._row_local if row_local else self._whole).append(rule)
        self._failures: dict[int, list[Any]] = {}  # position of a critical rule → arrays of row numbers
        self.example_rows: dict[int, list[int]] = {}  # rule position → row numbers of the first failing rows

    @property
    def columns(self) -> list[str]:
        """Columns that row-local rules read."""
        return [c for c in self._domain.rule_columns if any(c in rule.columns for rule in self._row_local)]

    @property
    def presence_columns(self) -> set[str]:
        """Those of `columns` that are only checked for NULL, so that any value will do."""
        asked = [(c, rule) for rule in self._row_local for c in rule.columns]
        return {c for c, _ in asked} - {c for c, rule in asked if rule.type != NOT_NULL or len(rule.columns) > 1}

    @property
    def whole_columns(self) -> list[str] | None:
        """Columns needed for a whole partition at once; None if no rule needs that."""
        if not self._whole:
            return None
        return [c for c in self._domain.rule_columns if any(c in rule.columns for rule in self._whole)]

    @property
    def marks_by_partition(self) -> bool:
        """Whether a rule that needs a whole partition marks rows."""
        return any(rule.severity == "critical" and self.outcomes[rule.position].row_level for rule in self._whole)

    def add_verdicts(self, date: dt.date, verdicts: Mapping[str, Sequence[int]]) -> None:
        """Begin with what was counted earlier for other rows of a partition, see `verdicts`."""
        for rule in self._row_local:
            self.outcomes[rule.position].add_counts({date: verdicts[rule.code]})

    def add_codes(self, numbers: pa.ChunkedArray[Any], codes: pa.ChunkedArray[Any]) -> None:
        """Begin with the codes that rows got earlier, except those of rules that need a whole partition."""
        import numpy as np

        coded = codes.combine_chunks().dictionary_encode()
        kinds, numbered = np.asarray(coded.indices), np.asarray(numbers)
        texts: list[str] = coded.dictionary.to_pylist()  # type: ignore[assignment]
        positions = {rule.code: rule.position for rule in self._row_local if rule.severity == "critical"}
        for kind, text in enumerate(texts):
            for code in text.split("; "):
                if code in positions:
                    self._failures.setdefault(positions[code], []).append(numbered[kinds == kind])

    def remove_rows(self, numbers: pa.ChunkedArray[Any], dates: pa.ChunkedArray[Any], columns: pa.Table) -> None:
        """Take back what was counted for rows that are superseded."""
        self.add_rows(numbers, dates, columns, sign=-1)

    def add_rows(
        self, numbers: pa.ChunkedArray[Any], dates: pa.ChunkedArray[Any], columns: pa.Table, *, sign: int = 1
    ) -> None:
        """Validate rows of any partitions. `numbers` are their row numbers, `dates` their partitions' dates.

        Integers keep one type; otherwise a NULL would turn a 2 in another row into 2.0.
        """
        import pandas as pd
        import pyarrow as pa

        alone = [rule for rule in self._row_local if not rule.is_across]
        if alone:
            integers: dict[pa.DataType, Any] = {pa.int64(): pd.Int64Dtype()}
            self._evaluate(alone, numbers, columns.to_pandas(types_mapper=integers.get), dates, sign)
        # Great Expectations can only compare columns that use NumPy's NULL.
        if across := [rule for rule in self._row_local if rule.is_across]:
            as_numbers = pa.schema(
                [field.with_type(pa.float64()) if field.type == pa.int64() else field for field in columns.schema]
            )
            self._evaluate(across, numbers, columns.cast(as_numbers).to_pandas(), dates, sign)

    def add_partition(self, date: dt.date, numbers: pa.ChunkedArray[Any], columns: pa.Table) -> None:
        """Validate one whole partition, in the order of its rows. Does nothing if it has no rows."""
        if not len(numbers):
            return
        # Rules about the table see the table's columns only; rules about columns see few columns, which is faster.
        seen: dict[tuple[str, ...], list[Rule]] = {}
        about_columns = {column for rule in self._whole if not rule.is_about_table for column in rule.columns}
        for rule in self._whole:
            wanted = rule.columns if rule.is_about_table else about_columns
            seen.setdefault(tuple(c for c in columns.column_names if c in wanted), []).append(rule)
        for names, rules in seen.items():
            self._evaluate(rules, numbers, columns.select(names).to_pandas(), date)

    def _evaluate(
        self,
        rules: list[Rule],
        numbers: pa.ChunkedArray[Any],
        frame: pd.DataFrame,
        dates: dt.date | pa.ChunkedArray[Any],
        sign: int = 1,
    ) -> None:
        """Validate the rows of a frame. `dates`: one date if they are a whole partition, or the date of each row."""
        for some, seen in frames.seen_by(rules, frame, self._domain):
            self._judge(some, numbers, seen, dates, sign)

    def _judge(
        self,
        rules: list[Rule],
        numbers: pa.ChunkedArray[Any],
        frame: pd.DataFrame,
        dates: dt.date | pa.ChunkedArray[Any],
        sign: int,
    ) -> None:

        import numpy as np
        from great_expectations.execution_engine import PandasExecutionEngine
        from great_expectations.validator.validator import Validator

        engine = PandasExecutionEngine()
        engine.load_batch_data("batch", frame)
        validator = Validator(execution_engine=engine)
        validator.metrics_calculator.show_progress_bars = False
        with _quiet():
            results = validator.graph_validate(
                configurations=[self._configurations[rule.position] for rule in rules],
                runtime_configuration={
                    "result_format": {
                        "result_format": "COMPLETE",
                        "return_unexpected_index_query": False,
                        "partial_unexpected_count": EXAMPLE_VALUES,
                    },
                    "catch_exceptions": True,
                },
            )
        numbered, days = np.asarray(numbers), Days(dates)
        configured = [(result, result.expectation_config) for result in results]
        answered = {config.meta["position"]: result for result, config in configured if config and config.meta}
        for rule in rules:
            result = answered.get(rule.position)
            if result is None or not _was_evaluated(result):
                reason = _reason(result)
                if ONLY_SQL.search(reason):
                    reason = f"it needs an SQL database, but silver is validated with pandas ({reason})"
                raise LakeError(f"{self.suite.path}: {rule} could not be evaluated: {reason}")
            outcome = self.outcomes[rule.position]
            if outcome.row_level:
                outcome.add_counts(days.counts(rule, self._configurations[rule.position], result, engine), sign)
            if sign < 0:
                continue
            indexes = result.result.get("unexpected_index_list") if outcome.row_level else None
            if outcome.row_level and result.result.get("unexpected_count") and not indexes:
                raise LakeError(f"{self.suite.path}: {rule} does not say which rows fail it")
            unexpected = numbered[np.asarray(indexes or [], dtype=np.int64)]
            if indexes:
                if rule.severity == "critical":
                    self._failures.setdefault(rule.position, []).append(unexpected)
                examples = self.example_rows.setdefault(rule.position, [])
                examples += unexpected[: EXAMPLE_ROWS - len(examples)].tolist()
            outcome.add(result, unexpected[:EXAMPLE_VALUES].tolist(), days.only)

    def include(self, found: Mapping[int, Outcome]) -> None:
        """Add what rules found in other partitions, by the rules' positions."""
        for position, outcome in found.items():
            self.outcomes[position].include(outcome)

    def failed_rows(self) -> pa.Table:
        """Rows that fail critical rules: `row_number_` and `codes`, joined in the suite's order."""
        import numpy as np
        import pyarrow as pa

        critical = [rule for rule in self.suite.rules if rule.position in self._failures]
        if not critical:
            return pa.table({"row_number_": pa.array([], pa.int64()), "codes": pa.array([], pa.string())})
        failed = {rule.position: np.concatenate(self._failures[rule.position]) for rule in critical}
        rows, places = np.unique(np.concatenate([failed[rule.position] for rule in critical]), return_inverse=True)
        # A row's failures as the bits of a number: there are few combinations, and each is written out once.
        bits = np.zeros(len(rows), dtype=object if len(critical) > 62 else np.int64)
        start = 0
        for bit, rule in enumerate(critical):
            end = start + len(failed[rule.position])
            bits[places[start:end]] |= 1 << bit
            start = end
        combinations, kinds = np.unique(bits, return_inverse=True)
        spelled = [
            "; ".join(rule.code for bit, rule in enumerate(critical) if int(combination) >> bit & 1)
            for combination in combinations
        ]
        codes = pa.DictionaryArray.from_arrays(pa.array(kinds, pa.int32()), pa.array(spelled, pa.string()))
        return pa.table({"row_number_": pa.array(rows, pa.int64()), "codes": codes.cast(pa.string())})

    def verdicts(self, date: dt.date) -> dict[str, list[int]]:
        """What rules that find rows say of a partition, by code: the number of elements, of missing ones, of those that
        were validated, and of unexpected ones."""
        found = {outcome.rule.code: outcome.dates.get(date) for outcome in self.outcomes.values() if outcome.row_level}
        return {code: list(counts or [0, 0, 0, 0]) for code, counts in found.items()}

    def withheld(self) -> dict[dt.date, list[str]]:
        """Partitions that must not be published, and why: the critical rules that fail and what was observed."""
        reasons: dict[dt.date, list[str]] = {}
        for outcome in self.outcomes.values():
            if outcome.rule.severity == "critical":
                for date, observed in outcome.failed().items():
                    reasons.setdefault(date, []).append(f"{outcome.rule}: {observed}")
        return dict(sorted(reasons.items()))

    def result(self, meta: Mapping[str, Any]) -> Any:
        """Great Expectations' own result object, with the counts of all chunks added up, small enough to keep."""
        import great_expectations
        from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

        results = [
            ExpectationValidationResult(
                success=outcome.success,
                expectation_config=self._configurations[rule.position],
                result=outcome.to_json(),
                exception_info={"raised_exception": False, "exception_traceback": None, "exception_message": None},
            )
            for rule in self.suite.rules
            for outcome in [self.outcomes[rule.position]]
        ]
        successful = sum(outcome.success for outcome in self.outcomes.values())
        critical = [o for o in self.outcomes.values() if o.rule.severity == "critical"]
        return ExpectationSuiteValidationResult(
            success=all(outcome.success for outcome in critical),
            results=results,
            suite_name=self.suite.domain,
            statistics={
                "evaluated_expectations": len(results),
                "successful_expectations": successful,
                "unsuccessful_expectations": len(results) - successful,
                "success_percent": 100 * successful / len(results) if results else None,
            },
            meta={"great_expectations_version": great_expectations.__version__, **meta},
        )


class Days:
    """The dates of a frame's rows: one, or one for each row."""

    def __init__(self, dates: dt.date | pa.ChunkedArray[Any]) -> None:
        import datetime as dt

        import numpy as np

        self.only: dt.date | None = None
        if isinstance(dates, dt.date):
            self.only = dates
            return
        coded = dates.combine_chunks().dictionary_encode()
        self._codes = np.asarray(coded.indices)
        self._days: list[dt.date] = coded.dictionary.to_pylist()  # type: ignore[assignment]
        self._all = np.bincount(self._codes, minlength=len(self._days))

    def counts(self, rule: Rule, configuration: Any, result: Any, engine: Any) -> dict[dt.date, list[int]]:
        """A rule's counts by date, see `Validation.verdicts`."""
        content = result.result
        elements, missing = content["element_count"], content.get("missing_count") or 0
        unexpected = content["unexpected_count"]
        # A whole partition, or a chunk of one.
        if self.only or (len(self._days) == 1 and rule.mostly == 1):
            return {self.only or self._days[0]: [elements, missing, elements - missing, unexpected]}
        within = judged = self._all
        if configuration.kwargs.get("row_condition"):
            judged = within = self._count(_positions(configuration, engine, only_condition=True))
        if missing or rule.is_across:
            judged = self._count(_positions(configuration, engine, without_missing=not rule.is_across))
        failing = self._count(content["unexpected_index_list"]) if unexpected else 0 * within
        lacking = within - judged if missing else 0 * within
        counts = zip(within.tolist(), lacking.tolist(), judged.tolist(), failing.tolist(), strict=True)
        return {day: list(four) for day, four in zip(self._days, counts, strict=True)}

    def _count(self, positions: Any) -> np.ndarray:
        """Rows at these positions, by day."""
        import numpy as np

        return np.bincount(self._codes[np.asarray(positions, dtype=np.int64)], minlength=len(self._days))


class Outcome:
    """One rule's outcome over all chunks."""

    def __init__(self, rule: Rule, row_level: bool, row_local: bool) -> None:
        self.rule = rule
        self.row_level = row_level
        """Whether the rule finds rows; other rules observe a value of the table."""
        self.row_local = row_local
        """Whether it validates each row by itself; others see one partition after the other."""
        self.dates: dict[dt.date, list[int]] = {}
        """See `Validation.verdicts`; of a rule that finds rows."""
        self.new_elements = self.new_unexpected = 0
        """Without what was counted earlier."""
        self.examples: list[tuple[Any, Any]] = []
        """The first failing rows: the row's number, and what was found there."""
        self.observations: dict[dt.date, tuple[bool, Any, Any]] = {}
        """Of a rule about the table, by partition: whether it passes, what was observed, and details."""

    @property
    def elements(self) -> int:
        return self._sum(0)

    @property
    def missing(self) -> int:
        return self._sum(1)

    @property
    def unexpected(self) -> int:
        return self._sum(3)

    def _sum(self, place: int) -> int:
        return sum(counts[place] for counts in self.dates.values())

    @property
    def observed(self) -> Any:
        """What the last partition that fails shows, or else the first."""
        return self._observation[0]

    @property
    def details(self) -> Any:
        return self._observation[1]

    @property
    def _observation(self) -> tuple[Any, Any]:
        observed = details = None
        for _, (success, value, more) in sorted(self.observations.items()):
            if observed is None or not success:
                observed, details = value, more
        return observed, details

    def add(self, result: Any, rows: Sequence[int], partition: dt.date | None) -> None:
        """Add the result of a chunk, or of a whole partition. `rows`: the numbers of the first failing rows."""
        content = result.result
        if self.row_level:
            self.new_elements += content["element_count"]
            self.new_unexpected += content["unexpected_count"]
            wanted = EXAMPLE_VALUES - len(self.examples)
            values = [_readable(value) for value in content.get("partial_unexpected_list", ())[:wanted]]
            self.examples += zip(rows, values, strict=False)
        elif partition:
            self.observations[partition] = (
                bool(result.success),
                _observed(content),
                _without_numpy(content.get("details")),
            )

    def add_counts(self, counts: Mapping[dt.date, Sequence[int]], sign: int = 1) -> None:
        for date, added in counts.items():
            known = self.dates.setdefault(date, [0, 0, 0, 0])
            for place, count in enumerate(added):
                known[place] += sign * count

    def include(self, other: Outcome) -> None:
        """Add what the rule found in other partitions. The numbers of all rows must sort in the order of the rows."""
        self.dates |= other.dates
        self.new_elements += other.new_elements
        self.new_unexpected += other.new_unexpected
        self.observations |= other.observations
        self.examples = sorted([*self.examples, *other.examples], key=lambda one: one[0])[:EXAMPLE_VALUES]

    def failed(self) -> dict[dt.date, str]:
        """Whole partitions that fail, by a table rule or because too few rows pass for `mostly`."""
        failed = {
            date: f"observed {observed}" for date, (success, observed, _) in self.observations.items() if not success
        }
        for date, (_, _, judged, unexpected) in self.dates.items():
            # The same arithmetic as in Great Expectations.
            if self.rule.mostly < 1 and judged and (judged - unexpected) / judged < self.rule.mostly:
                failed[date] = f"{unexpected:,} of {judged:,} rows fail, mostly is {self.rule.mostly:g}"
        return failed

    @property
    def success(self) -> bool:
        """With `mostly`, a rule succeeds if enough rows pass in every partition; without it, if all rows do."""
        return not self.failed() and (self.rule.mostly < 1 or not self.unexpected)

    def to_json(self) -> dict[str, Any]:
        """The result in the SUMMARY format of Great Expectations."""
        if not self.row_level:
            observed = {"observed_value": self.observed}
            return observed | ({"details": self.details} if self.details else {})
        judged = self.elements - self.missing
        examples = Counter(value for _, value in self.examples)

        def percent(part: int, whole: int) -> float | None:
            return 100 * part / whole if whole else None

        return {
            "element_count": self.elements,
            "missing_count": self.missing,
            "missing_percent": percent(self.missing, self.elements),
            "unexpected_count": self.unexpected,
            "unexpected_percent": percent(self.unexpected, judged),
            "unexpected_percent_nonmissing": percent(self.unexpected, judged),
            "unexpected_percent_total": percent(self.unexpected, self.elements),
            "partial_unexpected_list": list(examples.elements()),
            "partial_unexpected_counts": [{"value": v, "count": n} for v, n in examples.most_common()],
        }


def _positions(
    configuration: Any, engine: Any, *, only_condition: bool = False, without_missing: bool = False
) -> np.ndarray:
    """Positions of the rows that a row-level rule looks at: all that satisfy its condition, or only those of them that
    it does not ignore, and that have a value."""
    from great_expectations.expectations.registry import get_expectation_impl, get_metric_kwargs

    implementation: Any = get_expectation_impl(configuration.type)
    about = get_metric_kwargs(f"{implementation.map_metric}.unexpected_count", configuration)["metric_domain_kwargs"]
    if only_condition:
        about = {name: value for name, value in about.items() if name in ("row_condition", "condition_parser")}
    rows = engine.get_domain_records(about)
    if without_missing:
        rows = rows[rows[configuration.kwargs["column"]].notna()]
    places: np.ndarray = rows.index.to_numpy()
    return places


def _configuration(suite: Suite, rule: Rule, domain: Domain) -> tuple[Any, bool, bool]:
    """Great Expectations' own object for a rule, whether it finds rows, and whether it validates each row by itself."""
    from great_expectations import exceptions
    from great_expectations.core import ExpectationSuite
    from great_expectations.expectations import expectation as kinds
    from great_expectations.expectations.registry import get_expectation_impl

    where = f"{suite.path}, expectation {rule.position}"
    import_expectation(rule.type)
    try:
        implementation = get_expectation_impl(rule.type)
    except exceptions.ExpectationNotFoundError:
        raise LakeError(f"{where}: Great Expectations has no expectation {rule.type!r}; check the spelling") from None
    content = {**rule.content, "meta": {**rule.content["meta"], "position": rule.position}}
    arguments = rule.content.get("kwargs") or {}
    content["kwargs"] = arguments = frames.arguments(domain, arguments)
    if domain.columns.get(arguments.get("column", "")) in ("timestamp", "date"):
        # A day cannot be compared with a timestamp, but its midnight can.
        content["kwargs"] = {name: _moment(value) for name, value in arguments.items()}
    # A suite drops what it cannot build and only logs why: build the rules one by one, and check that each is there.
    with _quiet() as said:
        try:
            built = ExpectationSuite(name=suite.domain, expectations=[content]).expectation_configurations
        except Exception as error:  # noqa: BLE001 - pydantic, type and value errors alike are the suite's fault
            raise LakeError(f"{where} ({rule.type}): {_one_line(error)}") from None
    if len(built) != 1:
        raise LakeError(f"{where} ({rule.type}): {_one_line(said.text) or 'its arguments are not valid'}")
    maps = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    # In a column of one type, as all of silver's are, these only check the type.
    row_level = issubclass(implementation, maps) and rule.type not in OF_TYPE
    is_known = implementation.__module__.startswith("great_expectations.")
    return built[0], row_level, row_level and is_known and rule.type not in NOT_ROW_LOCAL


def modules_of_own(suite: Suite) -> list[str]:
    """The modules that define expectations of a suite which are not Great Expectations' own."""
    from great_expectations import exceptions
    from great_expectations.expectations.registry import get_expectation_impl

    found = set()
    for rule in suite.rules:
        import_expectation(rule.type)
        with contextlib.suppress(exceptions.ExpectationNotFoundError):  # told where the rule is evaluated
            found.add(get_expectation_impl(rule.type).__module__)
    return sorted(name for name in found if not name.startswith("great_expectations."))


def _moment(value: Any) -> Any:
    """Turn a day, 2026-11-01, into the timestamp of its midnight."""
    if isinstance(value, list):
        return [_moment(one) for one in value]
    return f"{value}T00:00:00" if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) else value


class _quiet(logging.Handler):  # noqa: N801 - used as a context manager
    """Keeps Great Expectations' log off the terminal and remembers its last line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.text = f"{record.getMessage()} {error or ''}"

    def __enter__(self) -> _quiet:
        self._logger = logging.getLogger("great_expectations")
        self._propagated = self._logger.propagate
        self._logger.addHandler(self)
        self._logger.propagate = False
        return self

    def __exit__(self, *exc: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated


def _was_evaluated(result: Any) -> bool:
    raised = result.exception_info or {}
    nested = [raised, *(value for value in raised.values() if isinstance(value, dict))]
    return not any(info.get("raised_exception") for info in nested)


def _reason(result: Any) -> str:
    if result is None:
        return "Great Expectations returned no result for it"
    raised = result.exception_info or {}
    for info in [raised, *(value for value in raised.values() if isinstance(value, dict))]:
        if info.get("exception_message"):
            return _one_line(info["exception_message"])
    return "Great Expectations returned no outcome for it"


def _observed(content: Mapping[str, Any]) -> Any:
    """What a table rule observed; if it compares sets of values, the unexpected or missing ones."""
    if (observed := content.get("observed_value")) is not None:
        return _without_numpy(observed)
    lists = {"unexpected": "partial_unexpected_list", "missing": "partial_missing_list"}
    found = [f"{name} {few(content[key])}" for name, key in lists.items() if content.get(key)]
    return ", ".join(found) or None


def _without_numpy(value: Any) -> Any:
    """A value as it is stored. Data Docs fail to show numbers of NumPy, some of which pass for Python's."""
    from great_expectations.util import convert_to_json_serializable

    return json.loads(json.dumps(convert_to_json_serializable(value)))


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:500]


def _readable(value: Any) -> Any:
    """An example as it is stored: numbers stay numbers, everything else becomes text."""
    import pandas as pd

    item = value.item() if hasattr(value, "item") else value
    if pd.api.types.is_scalar(item) and pd.isna(item):
        return "NULL"
    return item if isinstance(item, int | float | str) else str(item)
