"""Checks of configuration files that need no database."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.configuration.documents import parse_document
from accession.configuration.loading import Configuration, load_configuration
from accession.configuration.model import ConfigurationFile, DigestEntry, RuleEntry, WebhookEntry, json_schema
from accession.digests.options import DigestOptions
from accession.notifications.rules import RuleSpec
from accession.webhooks.registry import WebhookSpec

ROOT = Path(__file__).parents[3]
ENTRY = {
    "name": "Alder Library",
    "library_id": "alder",
    "account_id": "library.alder",
    "account_key": {"env": "ALDER_KEY"},
}
NAMES = [
    *("collections", "notifications", "channels", "rules", "name", "schedules", "pauses", "limits", "url"),
    *("webhooks", "digests", "collection", "recipients"),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), values)
    ),
    max_leaves=8,
)


def load(*files: Any) -> Configuration:
    documents = [
        parse_document(f"{number}.json", json.dumps(data).encode()) for number, data in enumerate(files, 1)
    ]
    return load_configuration(documents)


def messages(*files: Any) -> list[str]:
    return [problem.message for problem in load(*files).problems]


def entry_with(**fields: Any) -> dict[str, Any]:
    return {"collections": [ENTRY | fields]}


def test_lists_that_are_left_out_are_not_managed() -> None:
    configuration = load({"collections": []}, {"notifications": {"rules": []}})
    assert configuration.problems == ()
    assert configuration.collections.is_managed
    assert configuration.rules.is_managed
    assert not configuration.channels.is_managed


def test_empty_file_is_no_mistake() -> None:
    assert load_configuration([parse_document("file.yaml", b"# nothing\n")]).problems == ()


def test_name_in_two_files_is_a_mistake() -> None:
    assert messages({"collections": [ENTRY]}, {"collections": [ENTRY]}) == [
        'The name "Alder Library" is there twice.'
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"account_key": "s3cret"}, "The value of account_key must not be in the file: enter"),
        ({"account_key": ["s3cret"]}, "The value of account_key must not be in the file: enter"),
        ({"account_key": {"env": "s3cret-key"}}, "The value of env is invalid: enter the name of an"),
        ({"account_key": {"file": "s3cret"}}, "The value of file is invalid: enter an absolute path."),
        ({"account_key": {}}, "The value of account_key is invalid: enter either env or file."),
        ({"account_key": {"vault": "s3cret"}}, 'The key "vault" is unknown: the keys are env, file.'),
        ({"name": "two\nlines"}, "The value of name is invalid: it has line breaks"),
        ({"name": ""}, "The value of name is invalid: string should have at least 1 character."),
        ({"account_id": "s p"}, 'The account id of collection "Alder Library" is invalid'),
        ({"schedules": None}, "The value of schedules is invalid: it must be a mapping of keys to values."),
        ({"schedules": {"purchases": {"time_zone": "Mars"}}}, "'Mars' is not a time zone"),
        ({"schedules": {"verification": {}}}, 'The key "verification" is unknown: the keys are purchases'),
        ({"limits": {"max_requests_per_second": 0}}, "The value of max_requests_per_second is invalid"),
        ({"pauses": [{"reason": "x", "until": 5}]}, "The value of until is invalid: enter a time such as"),
        ({"pauses": [{"reason": "x"}, {"reason": "y"}]}, "The value of pauses is invalid: the workflow"),
        ({"pauses": "x"}, "The value of pauses is invalid: it must be a list."),
        ({"previous_name": "Alder Library"}, 'The previous name "Alder Library" is the name of a collection'),
    ],
)
def test_mistake_in_a_collection_is_explained(fields: dict[str, Any], message: str) -> None:
    shown = messages(entry_with(**fields))
    assert [each.startswith(message) for each in shown if "is missing" not in each] == [True], shown
    assert not any("s3cret" in each for each in shown)


def test_mistake_in_a_rule_is_explained() -> None:
    rule = {"name": "failures", "channel": "ops", "events": ["run_fails"]}
    (shown,) = messages({"notifications": {"rules": [rule]}})
    assert shown.startswith("The value of events is invalid: input should be 'run_failed'")
    (shown,) = messages({"notifications": {"rules": [rule | {"events": ["recovered"]}]}})
    assert shown.startswith("A rule for recovered alone would never apply")


def test_previous_name_of_two_collections_is_a_mistake() -> None:
    entries = [ENTRY | {"name": name, "previous_name": "Ash Library"} for name in ("Alder", "Birch")]
    assert messages({"collections": entries}) == ['The previous name "Ash Library" is there twice.']


@given(json_values)
def test_any_data_is_loaded_or_reported(data: Any) -> None:
    configuration = load(data)
    try:
        ConfigurationFile.model_validate({} if data is None else data)
    except ValueError:
        assert configuration.problems


def test_rules_have_all_values_of_stored_ones() -> None:
    assert list(RuleEntry.model_fields) == [field.name for field in fields(RuleSpec)]


def test_webhooks_and_digests_have_all_values_of_stored_ones() -> None:
    webhook = {field.name for field in fields(WebhookSpec)} | {"secret"}
    assert set(WebhookEntry.model_fields) == webhook
    digest = ["collection", *(field.name for field in fields(DigestOptions))]
    assert list(DigestEntry.model_fields) == digest


def test_example_of_the_documentation_fits_the_schema() -> None:
    page = (ROOT / "docs" / "how-to" / "configuration-as-code.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    validator = jsonschema_rs.validator_for(json_schema())
    data = parse_document("example.yaml", example.encode()).data
    validator.validate(data)
    assert not validator.is_valid({"collections": [data["collections"][0] | {"account_key": "secret"}]})


def test_schema_describes_every_key() -> None:
    schema: dict[str, Any] = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == {"collections", "notifications", "webhooks", "digests"}
    assert {"oneOf", "additionalProperties"} <= set(schema["$defs"]["SecretReference"])
