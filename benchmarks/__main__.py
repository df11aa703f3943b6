"""All measurements, one after another: `python -m benchmarks [--full] [PART ...]`.

Prints each table as it is done, and last all figures as one line of JSON. Those of a complete run are written
to `docs/performance/figures.json` with their curves beside it as SVG, and into the tables of
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

from benchmarks.chart import svg
from benchmarks.curves import curves
from benchmarks.report import filled

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "performance"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md")


@dataclass(frozen=True)
class Part:
    """A module of this package that prints tables, and as its last line JSON; what it is told for a run of
    minutes, and for a full one."""

    name: str
    quick: tuple[str, ...] = ()
    full: tuple[str, ...] = ()


PARTS = (
    Part("first_import"),
    Part("pages"),
    Part("spans"),
    Part("scale"),
    Part("growth", full=("--full",)),
    Part("imports"),
    Part("memory", quick=("500", "2000", "--walk", "1200"), full=("2000", "10000", "50000")),
    Part("parsing"),
    Part("applying"),
    Part("exporting", quick=("2000",)),
    Part("million", quick=("--titles", "20000")),
)


def measured(part: Part, *, full: bool) -> tuple[Any, float]:
    """Run the part, and print what it prints; its figures, and how many seconds that took.

    Raises SystemExit when it fails.
    """
    command = [sys.executable, "-m", f"benchmarks.{part.name}", *(part.full if full else part.quick)]
    started, last = time.monotonic(), ""
    print(f"\n{part.name}\n", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        for line in process.stdout or ():
            print(last, end="", flush=True)
            last = line
    if process.returncode != 0:
        raise SystemExit(f"The part {part.name} has failed.")
    return json.loads(last), round(time.monotonic() - started, 1)


def machine() -> Mapping[str, Any]:
    """What the figures were measured on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processors": os.cpu_count(),
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3),
        "python": platform.python_version(),
    }


def write(figures: Mapping[str, Any]) -> None:
    """Keep the figures with the documentation, as JSON, as curves and in its tables."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for name, chart in curves(figures).items():
        (FOLDER / f"{name}.svg").write_text(svg(chart))
    for page in PAGES:
        page.write_text(filled(page.read_text(), figures))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write what a complete run has found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n\n")[1])
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"Some of: {', '.join(names)}.")
    parser.add_argument("--full", action="store_true", help="Also what takes longer than minutes.")
    told = parser.parse_args(arguments)
    if unknown := set(told.parts) - set(names):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose among {', '.join(names)}")
    chosen = [part for part in PARTS if not told.parts or part.name in told.parts]
    figures: dict[str, Any] = {"machine": machine(), "full": told.full, "seconds": {}}
    for part in chosen:
        figures[part.name], figures["seconds"][part.name] = measured(part, full=told.full)
    if not told.parts:
        write(figures)
    print(f"\nThis took {sum(figures['seconds'].values()):,.0f} seconds.")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
