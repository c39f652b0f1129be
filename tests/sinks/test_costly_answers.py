"""What a CRM answers costs little, whatever it is: eight MiB of errors hold up no callback."""

import httpx
import hubspotsink
import pytest
import salesforcesink
from processortime import share

import relay
from relay import crm

pytestmark = pytest.mark.alone

SIZE = 8 * 1024 * 1024
MOST = 2.0
"""As a share of the library's form of 256 KiB, for 8 MiB. Some took ninety."""


def filled(item: bytes) -> bytes:
    return b"[" + b",".join([item] * (SIZE // (len(item) + 1))) + b"]"


BODIES = {
    "lists": filled(b"[]"),
    "objects": filled(b"{}"),
    "errors": filled(b'{"errorCode":"X","message":"y"}'),
    "long errors": filled(b'{"errorCode":"X","message":"%b"}' % (b"y " * 9000)),
    "as many errors as are read": b"["
    + b",".join([b'{"code":"X","message":"y"}'] * (crm.MOST_VALUES // 3 - 10))
    + b"]",
    "names": b'[{"errorCode":"X","fields":%b,"context":{"ids":%b}}]'
    % (2 * (b"[" + b",".join([b'"name"'] * 100_000) + b"]",)),
}


def of_salesforce(body: bytes):
    errors = salesforcesink.errors
    found = errors.api_errors(httpx.Response(400, content=body))
    return errors.outcome_of_errors(found, errors.RULES, [f"value {n}" for n in range(20)])


def of_hubspot(body: bytes):
    client = hubspotsink.module("client")
    answer = client.ApiResponse(client._json(b'{"category":"X","errors":%b}' % body))
    error = hubspotsink.module("errors").parse_error(400, answer.body)
    return error.outcome(["a value"]) if len(answer.errors()) <= 200 else None


@pytest.mark.parametrize("read", [of_salesforce, of_hubspot])
@pytest.mark.parametrize("body", BODIES)
def test_a_large_refusal_costs_little(read, body):
    def judge():
        assert isinstance(read(BODIES[body]), relay.Reject | relay.Pause | relay.Retry)

    assert share(judge, MOST) < MOST


def test_json_of_too_many_values_is_none():
    most = b"[" + b",".join([b"[]"] * (crm.MOST_VALUES // 2 - 1)) + b"]"
    assert len(crm.read_json(most)) == crm.MOST_VALUES // 2 - 1
    with pytest.raises(ValueError, match="too many values"):
        crm.read_json(b"[" + most + b",[]" * 10 + b"]")


def test_a_long_text_with_commas_is_read():
    text = b'{"a":"' + b"x, " * 200_000 + b'"}'
    assert crm.read_json(text)["a"].startswith("x, ")
