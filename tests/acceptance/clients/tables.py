"""Read exported tables with DuckDB and pandas, and write what they have read.

Standard input is an object: name of a file by its kind (csv, kbart, jsonl, parquet). What each reader has
read is written as {"kind reader": {"types": {column: type}, "rows": [values of the selected columns]}}.
"""

import json
import sys
from typing import Any

import duckdb
import pandas

COLUMNS = {
    "kbart": ["title_id", "publication_title", "title_url"],
    "csv": ["identifier", "title", "licenses_owned"],
    "jsonl": ["identifier", "title", "licenses_owned"],
    "parquet": ["identifier", "title", "licenses_owned"],
}


def _read_with_duckdb(kind: str, path: str) -> dict[str, Any]:
    connection = duckdb.connect()
    relation = {
        # KBART never quotes values.
        "kbart": lambda: connection.read_csv(path, sep="\t", quotechar="", header=True),
        "csv": lambda: connection.read_csv(path, header=True),
        "jsonl": lambda: connection.read_json(path, format="newline_delimited"),
        "parquet": lambda: connection.read_parquet(path),
    }[kind]()
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    columns = ", ".join(COLUMNS[kind])
    return {"types": types, "rows": relation.select(columns).fetchall()}


def _read_with_pandas(kind: str, path: str) -> dict[str, Any]:
    frame = {
        "kbart": lambda: pandas.read_csv(path, sep="\t", quoting=3, keep_default_na=False),
        "csv": lambda: pandas.read_csv(path, keep_default_na=False),
        "jsonl": lambda: pandas.read_json(path, lines=True, dtype=False),
        "parquet": lambda: pandas.read_parquet(path),
    }[kind]()
    if "updated_at" in frame:
        frame["updated_at"] = pandas.to_datetime(frame["updated_at"], format="ISO8601")
    types = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    return {"types": types, "rows": frame[COLUMNS[kind]].values.tolist()}


json.dump(
    {
        f"{kind} {name}": read(kind, path)
        for kind, path in json.load(sys.stdin).items()
        for name, read in (("duckdb", _read_with_duckdb), ("pandas", _read_with_pandas))
    },
    sys.stdout,
)
