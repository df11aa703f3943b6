"""`accession export`, as a person gives it."""

from pathlib import Path
from typing import Any

import pymarc
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.core.settings import ScheduledExport, get_settings
from accession.db.engine import snapshot
from accession.db.models import Collection
from tests.fixtures.commands import Run
from tests.fixtures.factories import NOON, make_collection
from tests.integration.exports.test_marc_files import DAY, buy, count


@pytest.fixture
def bought(session: Session, collection: Collection) -> None:
    """Two collections with a title each, and a third that has one no more."""
    buy(session, collection, "solaris", NOON)
    buy(session, make_collection(session, "Birch Library"), "eden", NOON)
    gone = buy(session, make_collection(session, "Cedar Library"), "fiasco", NOON)
    count(session, gone, NOON + DAY, owned=0)


def ids(file: Path) -> list[tuple[str | None, str]]:
    """The titles in a file, and their state."""
    records = pymarc.MARCReader(file.read_bytes(), permissive=False)
    return [(each["001"].data, str(each.leader)[5]) for each in records if each is not None]


def test_the_whole_catalogue_goes_into_a_file(run: Run, bought: None, tmp_path: Path) -> None:
    file = tmp_path / "records.mrc"
    answer = run("export", "marc", "--output", str(file))

    assert (answer.code, answer.out, answer.err) == (0, "", f"2 titles in {file}\n")
    assert ids(file) == [("solaris", "n"), ("eden", "n")]


def test_a_collection_with_the_librarys_own_fields_and_links(run: Run, bought: None, tmp_path: Path) -> None:
    file, profile = tmp_path / "records.mrc", tmp_path / "koha.toml"
    profile.write_text('[[fields]]\ntag = "942"\nsubfields = [["c", "EBOOK"]]\n')
    words = (
        "--url-template",
        "https://ebook.example/{identifier}",
        "--profile",
        str(profile),
        "--availability",
    )
    answer = run("export", "marc", "--collection", "Birch Library", *words, "--output", str(file))

    assert answer.code == 0
    [record] = pymarc.MARCReader(file.read_bytes(), permissive=False)
    assert record is not None
    assert (record["001"].data, record["942"]["c"], record["852"]["b"]) == ("eden", "EBOOK", "Birch Library")
    assert record.get_fields("856")[-1]["u"] == "https://ebook.example/eden"


def test_what_has_changed_is_told_with_what_is_gone(run: Run, bought: None, tmp_path: Path) -> None:
    file = tmp_path / "changes.mrc"

    assert run("export", "marc", "--since", f"{NOON + DAY:%Y-%m-%d}", "--output", str(file)).code == 0
    assert ids(file) == [("fiasco", "d")]
    assert run("export", "marc", "--since", "1h", "--output", str(file)).err == f"0 titles in {file}\n"
    assert ids(file) == []


def test_without_a_file_the_records_go_into_a_pipe(run: Run, bought: None) -> None:
    answer = run("export", "marc", "--format", "marcxml", "--collection", "Alder Library")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<collection')
    assert '<controlfield tag="001">solaris</controlfield>' in answer.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "yesterday"), '"yesterday" is no moment: give a date as 2024-05-01'),
        (("--collection", "Dogwood"), 'No collection found named "Dogwood".'),
        (("--url-template", "https://ebook.example/"), "it has no {identifier}, and so leads to no title"),
        (("--profile", "/missing/koha.toml"), "The profile /missing/koha.toml cannot be read"),
        (("--output", "/missing/records.mrc"), "/missing/records.mrc cannot be written"),
        (("--output", "nowhere://ann:secret@host/x.mrc"), "nowhere://host/x.mrc cannot be written"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    words: tuple[str, str], said: str, run: Run, bought: None
) -> None:
    sentence = run("export", "marc", *words).sentence

    assert said in sentence
    assert "secret" not in sentence


def test_an_export_that_fails_leaves_the_good_file(run: Run, bought: None, tmp_path: Path) -> None:
    file = tmp_path / "records.mrc"
    run("export", "marc", "--output", str(file))
    before = file.read_bytes()

    answer = run("export", "marc", "--url-template", "https://ebook.example/", "--output", str(file))

    assert answer.code == 1
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_an_export_sees_one_moment_and_cannot_write(session: Session, bought: None) -> None:
    with snapshot() as seen:
        before = seen.scalar(text("SELECT count(*) FROM license_pools"))
        buy(session, make_collection(session, "Later Library"), "later", NOON)
        assert seen.scalar(text("SELECT count(*) FROM license_pools")) == before
        assert seen.scalar(text("SHOW transaction_read_only")) == "on"


def test_the_doctor_looks_at_scheduled_exports_before_their_time(
    run: Run, bought: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(name: str, **changes: Any) -> dict[str, Any]:
        return {"name": name, "format": "marc21", "target": str(tmp_path)} | changes

    exports = [
        planned("good", target="s3://ann:secret@bucket/folder"),
        planned("format", format="epub"),
        planned("folder", target="/missing/folder"),
        planned("collection", collections=["Dogwood"]),
        planned("since", since="yesterday"),
    ]
    made = tuple(ScheduledExport.model_validate(export) for export in exports)
    monkeypatch.setattr(get_settings(), "exports", made)

    checks = {check["what"]: check for check in run("doctor", "--json").json}
    found = {export["name"]: checks[f"export {export['name']}"] for export in exports}

    assert [name for name, check in found.items() if check["ok"]] == ["good"]
    assert found["good"]["finding"] == "marc21 into s3://bucket/folder, 06:00"
    assert found["format"]["finding"].startswith('There is no format "epub"')
    assert found["folder"]["finding"].startswith("/missing/folder is no folder that can be written to")
    assert found["collection"]["finding"] == 'No collection found named "Dogwood".'
    assert found["since"]["finding"].startswith('"yesterday" is no moment')
