"""The examples in config/examples load, and show what the README promises of them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from relay.cli import main

EXAMPLES = Path(__file__).parent.parent / "config" / "examples"
ENVIRON = {
    "SUMOTEXT_TOKEN": "a-token",
    "SF_LOGIN_URL": "https://acme.my.salesforce.com",
    "SF_CLIENT_ID": "an-id",
    "SF_CLIENT_SECRET": "a-secret",
    "HUBSPOT_TOKEN": "a-key",
}
FORM = ("web_form", "Name=Mary Jane", "Zip=10054", "DOB=1/2/2000")
POLL = ("poll", "reply=A", "label=Tampa")
STOP = ("message", "msg=STOP")


def relay(*arguments):
    result = CliRunner().invoke(main, arguments, env=ENVIRON, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_example_is_right(file):
    assert "is right" in relay("check", "--config", str(file))


@pytest.mark.parametrize(
    ("file", "callback", "expected"),
    [
        ("salesforce-leads", FORM, {"FirstName": "Mary", "LastName": "Jane"}),
        ("salesforce-leads", FORM, {"PostalCode": "10054", "LeadSource": "SMS"}),
        ("salesforce-leads", FORM, {"Birthdate": "2000-01-02", "MailingPostalCode": "10054"}),
        ("salesforce-poll-votes", POLL, {"Reply__c": "A", "Label__c": "Tampa"}),
        ("hubspot-contacts", FORM, {"firstname": "Mary", "lastname": "Jane"}),
    ],
)
def test_an_example_makes_the_record_that_it_speaks_of(file, callback, expected):
    shown = json.loads(relay("preview", "--json", "--config", f"{EXAMPLES / file}.yaml", *callback))
    (sink,) = shown["sinks"]
    assert sink["record"].items() >= expected.items()


@pytest.mark.parametrize("file", ["salesforce-opt-outs", "salesforce-leads"])
def test_an_example_takes_consent_alone(file):
    path = f"{EXAMPLES / file}.yaml"
    shown = json.loads(relay("preview", "--json", "--config", path, *STOP))
    assert [(sink["consent"], sink["record"]) for sink in shown["sinks"]] == [(True, None)]


def test_the_example_of_hubspot_takes_consent_beside_its_record():
    path = f"{EXAMPLES}/hubspot-contacts.yaml"
    (sink,) = json.loads(relay("preview", "--json", "--config", path, *STOP))["sinks"]
    assert sink["consent"]
    assert "sms_opt_out" not in sink["record"]


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("salesforce-leads", {"PostalCode", "Birthdate", "FirstName", "LastName"}),
        ("hubspot-contacts", {"zip", "firstname", "lastname"}),
    ],
)
def test_an_example_leaves_out_what_a_form_has_left_blank(file, names):
    """Else an empty form field would wipe what the CRM has."""
    filled = ("web_form", "Name=Mary Jane", "Zip=10054", "DOB=1/2/2000")
    for callback, expected in ((filled, names), (("web_form", "Name= ", "Zip=", "DOB="), set())):
        shown = relay("preview", "--json", "--config", f"{EXAMPLES / file}.yaml", *callback)
        (sink,) = json.loads(shown)["sinks"]
        assert sink["record"].keys() & names == expected


@pytest.mark.parametrize(
    ("file", "callback"),
    [
        ("salesforce-leads", POLL),
        ("salesforce-poll-votes", FORM),
        ("salesforce-opt-outs", FORM),
    ],
)
def test_an_example_leaves_alone_what_is_not_for_it(file, callback):
    shown = json.loads(relay("preview", "--json", "--config", f"{EXAMPLES / file}.yaml", *callback))
    assert not any(sink["matches"] for sink in shown["sinks"])
