"""Exports: DuckDB, pandas and pymarc read every row, with the right types."""

import re
import sys
from pathlib import Path
from typing import Any

import pymarc
import pytest

from tests.fixtures.clients import python_client, run_client
from tests.fixtures.imported_library import ImportedLibrary

TABLES = {"csv": "csv", "kbart": "txt", "jsonl": "jsonl", "parquet": "parquet"}
READERS = ("duckdb", "pandas")
# The types that readers infer, by column.
TYPES = {
    "duckdb": {"licenses_owned": "BIGINT", "updated_at": "TIMESTAMP"},
    "pandas": {"licenses_owned": "int64", "updated_at": "datetime64"},
}


@pytest.fixture(scope="module")
def exports(library: ImportedLibrary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export of each format."""
    folder = tmp_path_factory.mktemp("exports")
    for name, suffix in TABLES.items():
        library.command("export", name, "--output", str(folder / f"titles.{suffix}"))
    for name, suffix in (("marc21", "mrc"), ("marcxml", "xml")):
        library.command("export", "marc", "--format", name, "--output", str(folder / f"titles.{suffix}"))
    return folder


@pytest.fixture(scope="module")
def tables(exports: Path) -> dict[str, Any]:
    """The rows and types that each reader has read of each table."""
    command = python_client("reading exports with DuckDB and pandas", "tables", sys.executable)
    paths = {name: str(exports / f"titles.{suffix}") for name, suffix in TABLES.items()}
    tables: dict[str, Any] = run_client(command, paths)
    return tables


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["csv", "jsonl", "parquet"])
def test_reader_gets_every_row_with_types(
    name: str, reader: str, tables: dict[str, Any], library: ImportedLibrary
) -> None:
    table = tables[f"{name} {reader}"]
    for column, expected in TYPES[reader].items():
        assert table["types"][column].startswith(expected)
    # In CSV, a title that a spreadsheet would evaluate as a formula has an apostrophe.
    equals_sign = "'=" if name == "csv" else "="
    assert sorted(table["rows"]) == sorted(
        [title.identifier, re.sub("^=", equals_sign, title.title), title.copies]
        for title in library.titles.values()
    )


@pytest.mark.parametrize("reader", READERS)
def test_reader_gets_every_row_of_kbart(
    reader: str, tables: dict[str, Any], library: ImportedLibrary
) -> None:
    rows = tables[f"kbart {reader}"]["rows"]
    assert {identifier: url for identifier, _, url in rows} == {
        title.identifier: title.vendor_page for title in library.titles.values()
    }
    assert len(rows) == len(library.titles)
    assert all(name.startswith(library.titles[identifier].title) for identifier, name, _ in rows)


@pytest.mark.parametrize("suffix", ["mrc", "xml"])
def test_pymarc_reads_every_record(suffix: str, exports: Path, library: ImportedLibrary) -> None:
    parse: Any = pymarc.MARCReader if suffix == "mrc" else pymarc.parse_xml_to_array
    with (exports / f"titles.{suffix}").open("rb") as file:
        records = list(parse(file))
    assert {record["001"].data for record in records if record is not None} == set(library.titles)
    assert len(records) == len(library.titles)
