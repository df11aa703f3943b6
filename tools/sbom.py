"""Write the SPDX 2.3 document of a wheel: its hash, and the pinned packages that it was tested with.

Versions and dependencies come from requirements/run.txt, licences from the installed packages. The document
is validated, and written beside the wheel.

Usage: python -m tools.sbom WHEEL
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from license_expression import ExpressionError, LicenseExpression
from packaging.utils import parse_wheel_filename
from spdx_tools.common.spdx_licensing import spdx_licensing
from spdx_tools.spdx.model import (
    Actor,
    ActorType,
    Checksum,
    ChecksumAlgorithm,
    CreationInfo,
    Document,
    ExternalPackageRef,
    ExternalPackageRefCategory,
    Package,
    Relationship,
    RelationshipType,
    SpdxNoAssertion,
)
from spdx_tools.spdx.writer.write_anything import write_file

LOCK = Path(__file__).parents[1] / "requirements" / "run.txt"
DOCUMENT_ID = "SPDXRef-DOCUMENT"
# A package with its version, then lines with its hashes and with the packages that need it.
LOCKED = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.]+).*\n((?:    .*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class LockedPackage:
    """Package of the lock file, with the names of those that need it."""

    name: str
    version: str
    needed_by: tuple[str, ...]


def locked_packages(lock: str, name: str) -> Iterator[LockedPackage]:
    """Yield the packages of a lock file; `name` is the package that it was compiled for."""
    for package, version, details in LOCKED.findall(lock):
        origins = filter(None, re.findall(r"^    # +(?:via\b *)?(.*)$", details, re.MULTILINE))
        needed_by = tuple(name if origin.startswith("-r ") else origin for origin in origins)
        yield LockedPackage(package, version, needed_by)


def sbom(wheel: Path) -> Document:
    """Return the document of a wheel that is installed here."""
    name, version, _, _ = parse_wheel_filename(wheel.name)
    digest = sha256(wheel.read_bytes()).hexdigest()
    own = _package(name, str(version))
    own.file_name = wheel.name
    own.checksums = [Checksum(ChecksumAlgorithm.SHA256, digest)]
    locked = list(locked_packages(LOCK.read_text(), name))
    info = CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id=DOCUMENT_ID,
        name=wheel.stem,
        document_namespace=f"https://spdx.org/spdxdocs/{name}-{version}-{digest}",
        creators=[Actor(ActorType.TOOL, f"{name}-tools.sbom-{version}")],
        created=datetime.now(UTC).replace(microsecond=0, tzinfo=None),
    )
    return Document(
        info,
        packages=[own, *(_package(package.name, package.version) for package in locked)],
        relationships=[
            Relationship(DOCUMENT_ID, RelationshipType.DESCRIBES, own.spdx_id),
            *(
                Relationship(_spdx_id(other), RelationshipType.DEPENDS_ON, _spdx_id(package.name))
                for package in locked
                for other in package.needed_by
            ),
        ],
    )


def _package(name: str, version: str) -> Package:
    purl = f"pkg:pypi/{name}@{version}"
    return Package(
        spdx_id=_spdx_id(name),
        name=name,
        version=version,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        license_declared=_license(name),
        external_references=[ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", purl)],
    )


def _spdx_id(name: str) -> str:
    return f"SPDXRef-Package-{name}"


def _license(name: str) -> LicenseExpression | SpdxNoAssertion:
    """Return the licence in the metadata of an installed package, if it is an SPDX expression."""
    try:
        fields = metadata.metadata(name).json
    except metadata.PackageNotFoundError:  # needed on other platforms only
        return SpdxNoAssertion()
    text = fields.get("license_expression") or fields.get("license")
    try:
        return spdx_licensing.parse(text, validate=True) if text else SpdxNoAssertion()
    except ExpressionError:
        return SpdxNoAssertion()


def main() -> None:
    """Write the document of the wheel that the command line names."""
    wheel = Path(sys.argv[1])
    write_file(sbom(wheel), str(wheel.with_suffix(".spdx.json")), validate=True)


if __name__ == "__main__":
    main()
