"""Run all measurements, or some of them: `python -m benchmarks [--full] [PART ...]`.

Each part prints its tables; the last line of the output is all figures as JSON. A run of all parts also
updates the documentation: `docs/performance/figures.json`, the charts beside it, and the tables of
`docs/performance.md` and the README.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chart import render_svg
from benchmarks.figure_charts import build_charts
from benchmarks.report import fill_tables

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "performance"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md")


@dataclass(frozen=True)
class Part:
    """A module of this package that prints tables and, as its last line, its figures as JSON.

    Attributes:
        name: Name of the module.
        quick: Its arguments in a run that takes minutes.
        full: Its arguments with `--full`.
    """

    name: str
    quick: tuple[str, ...] = ()
    full: tuple[str, ...] = ()


PARTS = (
    Part("first_import", full=("--full",)),
    Part("windows"),
    Part("pages"),
    Part("steps"),
    Part("spans"),
    Part("scale"),
    Part("growth", full=("--full",)),
    Part("retention", quick=("--collections", "5", "--events", "143")),
    Part("imports"),
    Part("memory", quick=("500", "2000", "--long-run-days", "1200"), full=("2000", "10000", "50000")),
    Part("parsing"),
    Part("applying"),
    Part("exporting", quick=("2000",)),
    Part("million", quick=("--titles", "20000")),
    Part("reports", quick=("--titles", "20000")),
)


def run_part(part: Part, *, full: bool) -> tuple[Any, float]:
    """Run a part, print its tables, and return its figures and its duration in seconds.

    Raises:
        SystemExit: the part failed.
    """
    command = [sys.executable, "-m", f"benchmarks.{part.name}", *(part.full if full else part.quick)]
    start, last_line = time.monotonic(), ""
    print(f"\n{part.name}\n", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        for line in process.stdout or ():
            print(last_line, end="", flush=True)
            last_line = line
    if process.returncode != 0:
        raise SystemExit(f"The part {part.name} failed with exit status {process.returncode}.")
    return json.loads(last_line), round(time.monotonic() - start, 1)


def describe_machine() -> Mapping[str, Any]:
    """Return processors, memory and Python version of this machine."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processors": os.cpu_count(),
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3),
        "python": platform.python_version(),
    }


def update_documentation(figures: Mapping[str, Any]) -> None:
    """Write the figures to the documentation: as JSON, as charts and as tables of its pages."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for name, chart in build_charts(figures).items():
        (FOLDER / f"{name}.svg").write_text(render_svg(chart))
    for page in PAGES:
        page.write_text(fill_tables(page.read_text(), figures))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the selected parts, and update the documentation if these are all."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Accession's speed and memory against the simulated vendor. Each part prints its "
        "tables; the last line is all figures as JSON. A run of all parts also updates the documentation.",
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"Part to run: {', '.join(names)}. Default: all."
    )
    parser.add_argument("--full", action="store_true", help="Measure larger catalogues too; takes hours.")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(names):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    selected = [part for part in PARTS if not options.parts or part.name in options.parts]
    figures: dict[str, Any] = {"machine": describe_machine(), "full": options.full, "seconds": {}}
    for part in selected:
        figures[part.name], figures["seconds"][part.name] = run_part(part, full=options.full)
    if not options.parts:
        update_documentation(figures)
    print(f"\nTotal: {sum(figures['seconds'].values()):,.0f} seconds.")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
