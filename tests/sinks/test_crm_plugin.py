"""A CRM sink by somebody else, written with relay and relay.crm alone, over a strict stub."""

import ipaddress
import logging
from contextlib import asynccontextmanager
from pathlib import Path

import hubspotsink
import orjson
import pytest
from hubspotsink import key, mobile
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from stubs.vendor import Stub, serving

import relay
import relay.delivery.http
from relay.config import plugins
from relay.templating.expressions import Compiler

REGISTRY = plugins.load([Path(__file__).parents[1] / "madeup"])
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
FIELDS = {"id", "key", "phone", "name", "age", "stopped"}


class AcmeStub(Stub):
    """Refuses a batch as a whole for one bad person, an unknown field, or a key that is twice."""

    def __init__(self):
        routes = [
            Route("/token", self.token, methods=["POST"]),
            Route("/people/batch", self.batch, methods=["POST"]),
            Route("/people/search", self.search, methods=["POST"]),
            Route("/people", self.page),
        ]
        super().__init__(Starlette(routes=routes))
        self.people, self.tokens = {}, 0
        self.is_data = lambda _method, path: "people" in path

    def seed(self, **fields):
        known = f"p{len(self.people) + 1}"
        self.people[known] = {"id": known, "key": "", "phone": ""} | fields

    async def token(self, request):
        form = await request.form()
        self.tokens += 1
        return JSONResponse({"token": f"token {self.tokens}"}, 200 if form["secret"] else 403)

    def refused(self, request):
        if request.headers["authorization"] != f"Bearer token {self.tokens}":
            return JSONResponse({"code": "TOKEN", "message": "expired"}, 401)
        return None

    async def batch(self, request):
        people = orjson.loads(await request.body())["people"]
        if answer := self.refused(request):
            return answer
        named = [each["id"] or each["key"] for each in people]
        assert len(people) <= 100
        assert len(set(named)) == len(named)
        for each in people:
            if unknown := each.keys() - FIELDS:
                return self.error("NO_FIELD", f"no field {unknown}")
            if not isinstance(each.get("age", 0), int):
                return self.error("BAD_PERSON", f"{each['age']} is no age of {each['key']}")
        return JSONResponse({"ids": [self.write(each) for each in people]})

    def error(self, code, message):
        return JSONResponse({"code": code, "message": message}, 400)

    def write(self, person):
        there = (known for known, each in self.people.items() if each["key"] == person["key"])
        known = person.pop("id") or next(there, None) or f"p{len(self.people) + 1}"
        self.people.setdefault(known, {"id": known, "phone": ""}).update(person)
        return known

    async def search(self, request):
        asked = orjson.loads(await request.body())
        tails = tuple(each[-7:] for each in asked["phones"])
        found = [
            each
            for each in self.people.values()
            if each["key"] in asked["keys"] or each["phone"].replace("-", "").endswith(tails)
        ]
        return self.refused(request) or JSONResponse({"people": found})

    async def page(self, request):
        people = sorted(self.people.values(), key=lambda each: each["id"])
        start = int(request.query_params["after"] or 0)
        after = str(start + 2) if start + 2 < len(people) else None
        answer = {"people": people[start : start + 2], "next": after}
        return self.refused(request) or JSONResponse(answer)


@asynccontextmanager
async def acme(stub, accounts=None, **options):
    sink_class = REGISTRY.sinks["acme"].sink_class
    async with (
        serving(stub.app) as url,
        relay.delivery.http.client(timeout=5, allow_private=LOOPBACK) as http,
    ):
        given = {"url": url, "secret": "s3cret", **options}
        context = {"environment": Compiler()}
        sink = sink_class.__new__(sink_class)
        sink.accounts = accounts
        model = sink_class.Options.model_validate(given, context=context)
        sink.__init__("people", model, http, logging.getLogger("relay.sinks.people"))
        yield sink


def delivery(number, word=None, **record):
    made = hubspotsink.delivery(number)
    return relay.Delivery(made.id, made.event, record or None, last_word=word)


def test_it_loads_beside_the_built_in_sinks_and_is_short():
    assert not REGISTRY.errors
    text = (Path(__file__).parents[1] / "madeup/acme.py").read_text()
    assert sum(1 for line in text.splitlines() if line.strip()) < 150


async def test_people_are_upserted_by_key_in_one_request():
    stub = AcmeStub()
    stub.seed(key=key(1), phone=mobile(1), name="Old")
    async with acme(stub) as sink:
        outcomes = await sink.send_batch([delivery(n, name=f"Ann {n}") for n in (1, 2, 2)])
    assert [outcome.reference for outcome in outcomes] == ["p1", "p2", "p2"]
    assert [each["name"] for each in stub.people.values()] == ["Ann 1", "Ann 2"]
    assert [call.path for call in stub.calls] == ["/token", "/people/batch", "/people/batch"]


async def test_one_bad_person_is_found_and_the_others_are_written():
    stub = AcmeStub()
    async with acme(stub) as sink:
        sent = [delivery(n, age=n if n != 33 else "old-age") for n in range(1, 101)]
        outcomes = await sink.send_batch(sent)
    assert [n for n, each in enumerate(outcomes, 1) if not isinstance(each, relay.Delivered)] == [
        33
    ]
    assert len(stub.people) == 99
    assert len(stub.calls) < 20
    assert "old-age" not in outcomes[32].reason


async def test_where_each_is_refused_the_rest_waits():
    stub = AcmeStub()
    async with acme(stub) as sink:
        outcomes = await sink.send_batch([delivery(n, age="x") for n in range(1, 101)])
    assert [type(each) for each in outcomes] == [relay.Reject] * 5 + [relay.Pause] * 95
    stub.calls.clear()
    async with acme(stub) as sink:
        outcomes = await sink.send_batch([delivery(n, shoe=44) for n in range(1, 9)])
    assert {type(each) for each in outcomes} == {relay.Pause}
    assert "make the field" in outcomes[0].reason


@pytest.mark.parametrize("record", [{}, {"name": "Ann", "stopped": False}])
async def test_consent_is_written_to_whoever_has_the_number(record):
    stub = AcmeStub()
    stub.seed(phone="212-555-0001")
    stub.seed(key=key(2))
    options = {"consent": {"field": "stopped"}}
    async with acme(stub, **options) as sink:
        assert type(sink).takes_consent(sink.options, delivery(1).event)
        sent = [delivery(n, "opt_out", **record) for n in (1, 2, 3)]
        outcomes = await sink.send_batch(sent)
    assert [type(each) for each in outcomes] == [relay.Delivered] * 3
    assert [each["stopped"] for each in stub.people.values()] == [True] * 3


async def test_people_who_are_there_get_their_key_but_none_who_share_a_number():
    stub = AcmeStub()
    for phone in (mobile(1), "212-555-0002", mobile(3), mobile(3), "none"):
        stub.seed(phone=phone)
    async with acme(stub) as sink:
        told = await sink.setup(backfill=True)
    assert told == ["2 people have got their key, 1 numbers are shared"]
    assert [each["key"] for each in stub.people.values()] == [key(1), key(2), "", "", ""]


async def test_sinks_of_an_account_renew_an_expired_token_once():
    stub = AcmeStub()
    async with acme(stub) as sink:
        await sink.send_batch([delivery(1, name="Ann")])
        stub.tokens += 1  # from now on another one counts
        await sink.send_batch([delivery(2, name="Bob")])
    statuses = [call.status for call in stub.calls if call.path == "/people/batch"]
    assert statuses == [200, 401, 200]
    assert len(stub.people) == 2
