"""A vendor whose list never ends is given up after so many pages, with a reason."""

from types import SimpleNamespace

import pytest
from hubspotsink import delivery, module, opened
from salesforcesink import connected
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from stubs.hubspot import HubSpotStub
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

import relay
from relay.clock import SystemClock
from relay.crm import Pages
from relay.rate_limit import StrictLimiter
from relay.units import Rate

NEXT = "/services/data/v66.0/query/01g-2000"
PERSON = {"Id": "003000000000001", "Phone": None, "MobilePhone": "(212) 555-0001"}


def lists(*, counting, results=1):
    """The `paging` of HubSpot's lists: the next mark is another one, or always the same."""
    asked = []

    async def answer(request):
        asked.append(request)
        after = str(len(asked)) if counting else "7"
        found = [{"id": str(len(asked)), "properties": {}}] * results
        return JSONResponse({"total": 1, "results": found, "paging": {"next": {"after": after}}})

    paths = ["/crm/{rest:path}"]
    app = Starlette(routes=[Route(path, answer, methods=["GET", "POST"]) for path in paths])
    return SimpleNamespace(app=app, asked=asked)


@pytest.mark.parametrize(
    ("counting", "results", "reason"),
    [(False, 1, "brings nothing"), (True, 0, "brings nothing"), (True, 1, "more than 20 pages")],
)
async def test_hubspots_people_are_read_to_an_end(monkeypatch, counting, results, reason):
    backfill = module("backfill")
    monkeypatch.setattr(backfill, "MOST_PAGES", 20)
    vendor = lists(counting=counting, results=results)
    async with serving(vendor.app) as url, opened(url) as sink:
        fill = backfill.Backfill(sink._client, sink._writer, sink.options)
        with pytest.raises(relay.Retry, match=reason):
            await fill.run(lambda _done, _total: None)
    assert len(vendor.asked) <= 20


async def test_hubspots_search_ends_within_a_delivery():
    vendor = lists(counting=True)
    async with serving(vendor.app) as url, opened(url, match=["key", "phone"]) as sink:
        sink._people._by_number._searches = StrictLimiter(Rate(1000, 1.0), SystemClock())
        (outcome,) = await sink.send_batch([delivery(1)])
    assert type(outcome) is relay.Retry
    assert "more than 50 pages" in outcome.reason
    searches = [each for each in vendor.asked if each.url.path.endswith("/search")]
    assert len(searches) == 50


async def test_a_property_that_is_unknown_under_ever_new_names_is_given_up(monkeypatch):
    stub = HubSpotStub()
    told = []

    def unknown():
        told.append(f"property_{len(told)}")
        error = {
            "status": "error",
            "category": "VALIDATION_ERROR",
            "message": "Property values were not valid",
            "errors": [
                {
                    "message": f'Property "{told[-1]}" does not exist',
                    "code": "PROPERTY_DOESNT_EXIST",
                    "context": {"propertyName": [told[-1]]},
                }
            ],
        }
        return JSONResponse(error, status_code=400)

    stub.answers["unknown"] = unknown
    stub.fault("unknown", count=100, on="POST ")
    async with serving(stub.app) as url, opened(url, unknown_property="drop") as sink:
        monkeypatch.setitem(sink._writer._repair.apply.__func__.__globals__, "REMEMBERED", 5)
        (outcome,) = await sink.send_batch([delivery(1)])
    assert not isinstance(outcome, relay.Delivered)
    assert 5 < len(told) < 20


async def test_salesforces_people_are_read_to_an_end():
    stub = SalesforceStub()

    async def endless(scope, receive, send):
        """The stub, but for its pages of a query: each names the same one as the next."""
        if "/query" not in scope.get("path", ""):
            await stub.app(scope, receive, send)
            return
        asked.append(scope["path"])
        page = {"totalSize": 9, "done": False, "records": [PERSON], "nextRecordsUrl": NEXT}
        await JSONResponse(page)(scope, receive, send)

    asked = []
    async with connected(SimpleNamespace(app=endless)) as (_, sink):
        with pytest.raises(relay.Retry, match="brings nothing"):
            await sink.setup(backfill=True)
    assert asked[1:] == [NEXT, NEXT][: len(asked) - 1]
    assert len(asked) <= 3


def test_a_list_of_many_pages_is_read():
    pages = Pages(1000)
    for number in range(999):
        pages.turn(str(number), 1)
    with pytest.raises(relay.Retry, match="more than 1,000 pages"):
        pages.turn("999", 1)
