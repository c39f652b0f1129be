"""A sink that takes consent gets every word of it, whatever else keeps its deliveries back."""

import pytest
from arrivals import arrival, mobile
from click.testing import CliRunner
from workers import ScriptedSink, counts, eventually, fail, reached, running, states

from relay.cli import main
from relay.config import last_good
from relay.config.loader import ConfigError, load
from relay.delivery.policy import SendKind
from relay.event import RawCallback
from relay.outcome import Pause, Reject, Retry
from relay.sources.router import Router
from relay.store import State
from relay.store.sqlite import SqliteStore
from relay.templating.expressions import Compiler

PLUGIN = """
import relay
from relay.templating.expressions import Condition

class Consent(relay.Options):
    field: str
    when: Condition | None = None

class Options(relay.Options):
    consent: Consent | None = None

class Crm(relay.Sink):
    Options = Options

    @classmethod
    def takes_consent(cls, options, event):
        consent = options.consent
        return consent is not None and (consent.when is None or consent.when.matches(event))

    async def send(self, delivery):
        pass

@relay.hookimpl
def register_sinks(register):
    register("crm", Crm)
"""
YAML = """
sources:
  sumotext: {{country: US}}
sinks:
  crm:
    plugin: crm
    when: data.keyword in ['JOIN'] and not opted_out
    options: {options}
"""


class ConsentSink(ScriptedSink):
    """A sink that takes every word of consent."""

    @classmethod
    def takes_consent(cls, options, event):  # noqa: ARG003  it takes all
        return True


@pytest.fixture
async def store(tmp_path, clock):
    opened = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    yield opened
    await opened.close()


def working(store, clock, sink, **changes):
    return running(store, clock, sink, sink_class=type(sink), **changes)


def when(text):
    return Compiler().condition(text)


def mapping(**values):
    return Compiler().mapping(values)


async def accepted(store):
    return [set(word.accepted) for word in await store.consent_log(after=0, limit=10)]


async def is_accepted(store):
    return await accepted(store) == [{"crm"}]


async def waits_for_retry(store):
    async def does():
        return await states(store) == [State.WAITING]

    await eventually(does)


# who gets it


@pytest.mark.parametrize(
    ("options", "text", "gets"),
    [
        ("{consent: {field: SMS__c}}", "STOP", True),
        ("{consent: {field: SMS__c}}", "START", True),
        ("{consent: {field: SMS__c}}", "hello", False),
        ("{}", "STOP", False),
        ("{consent: {field: SMS__c, when: data.short_code == '84700'}}", "STOP", True),
        ("{consent: {field: SMS__c, when: data.short_code == '1'}}", "STOP", False),
        ("{consent: {field: SMS__c, when: \"data.keyword|date('%m', '%d') == 1\"}}", "STOP", True),
    ],
    ids=["stop", "start", "no word", "no option", "narrowed", "narrowed away", "it fails"],
)
async def test_a_word_of_consent_reaches_a_sink_that_takes_it(
    tmp_path, store, clock, options, text, gets
):
    """The `when` keeps the STOP away: its keyword is another, and the contact has opted out."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "crm.py").write_text(PLUGIN)
    (tmp_path / "relay.yaml").write_text(YAML.format(options=options))
    router = Router(load(tmp_path / "relay.yaml", {}), store, clock)
    query = f"mobile=2125551212&smsid=1&shortcode=84700&key=X&msg={text}".encode()
    made = await router.new_event(RawCallback("sumotext", "GET", query, "", b"", router.now()))
    assert dict(made.deliveries) == ({"crm": None} if gets else {})


async def test_a_held_sink_is_queued_for_with_consent(tmp_path, store, clock):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "crm.py").write_text(PLUGIN)
    (tmp_path / "data").mkdir()
    path = tmp_path / "relay.yaml"
    path.write_text(YAML.format(options="{consent: {field: SMS__c}}"))
    last_good.keep(load(path, {}))
    path.write_text(YAML.format(options="{consent: {field: SMS__c}, colour: red}"))
    with pytest.raises(ConfigError) as wrong:
        load(path, {})
    config = last_good.load(path, {}, wrong.value, fill=True)
    assert config.sinks["crm"].held
    assert config.sinks["crm"].takes_consent(arrival(1, consent="opt_out").event)


# what it gets


async def test_only_the_word_is_sent_where_when_does_not_match(store, clock):
    sink = ConsentSink()
    async with working(store, clock, sink, when=when("data.keyword == 'VIP'")):
        await store.add(arrival(7, consent="opt_out"))
        await reached(store, 0, 1, 0)
    (sent,) = sink.sent
    assert (sent.record, sent.map_error, sent.last_word) == (None, None, "opt_out")


async def test_the_record_goes_with_the_word_where_when_matches(store, clock):
    sink = ConsentSink()
    async with working(store, clock, sink, map=mapping(Name="{{ data.fields.Name }}")):
        await store.add(arrival(7, consent="opt_in"))
        await reached(store, 0, 1, 0)
    assert (sink.sent[0].record, sink.sent[0].last_word) == ({"Name": "Bill"}, "opt_in")


async def test_what_says_no_word_has_none(store, clock):
    sink = ConsentSink()
    async with working(store, clock, sink):
        await store.add(arrival(7))
        await reached(store, 0, 1, 0)
    assert sink.sent[0].last_word is None
    assert sink.sent[0].record is not None


@pytest.mark.parametrize("broken", ["map", "when"])
async def test_the_word_goes_though_the_map_or_when_fails(store, clock, broken):
    sink = ConsentSink()
    fails = "data.fields.Name | date('%m', '%d')"
    changes = {"map": mapping(Name=f"{{{{ {fails} }}}}")} if broken == "map" else {}
    changes |= {"when": when(f"{fails} == 1")} if broken == "when" else {}
    async with working(store, clock, sink, **changes):
        await store.add(arrival(7, consent="opt_out"))
        await reached(store, 0, 0, 1)
    (sent,) = sink.sent
    assert (sent.record, sent.last_word) == (None, "opt_out")
    assert sent.map_error.startswith(f"{broken}: ")
    assert await accepted(store) == [{"crm"}], "the dead delivery's word is written"


async def test_a_refused_record_with_an_accepted_word_is_dead_and_the_word_is_accepted(
    store, clock
):
    sink = ConsentSink(lambda _: fail(Reject("no last name", consent=True)))
    async with working(store, clock, sink):
        await store.add(arrival(7, consent="opt_out"))
        await reached(store, 0, 0, 1)
    assert await accepted(store) == [{"crm"}]


async def test_a_refused_word_is_not_accepted(store, clock):
    sink = ConsentSink(lambda _: fail(Reject("no such field")))
    async with working(store, clock, sink):
        await store.add(arrival(7, consent="opt_out"))
        await reached(store, 0, 0, 1)
    assert await accepted(store) == [set()]


async def test_the_last_word_of_the_number_over_all_sources_is_written(store, clock):
    """A START to another source that came later counts, whichever is delivered first."""
    sink = ConsentSink()
    await store.add(arrival(7, consent="opt_out", source="sumotext"))
    await store.add(arrival(7, consent="opt_in", source="second", sinks=()))
    async with working(store, clock, sink):
        await reached(store, 0, 1, 0)
    assert sink.sent[0].event.data["consent"] == "opt_out"
    assert sink.sent[0].last_word == "opt_in"
    assert await store.last_word(mobile(7)) == "opt_in"
    assert await store.last_word(mobile(8)) is None


async def test_a_word_that_comes_while_another_is_written_is_written_after_it(store, clock):
    """Two sources' contacts are not in order: the last to write looks once more."""
    later = arrival(7, consent="opt_in", source="second", sinks=())

    async def answer(delivery):
        if len(sink.sent) == 1:
            await store.add(later)

    sink = ConsentSink(answer)
    async with working(store, clock, sink):
        await store.add(arrival(7, consent="opt_out"))
        await eventually(lambda: len(sink.sent) == 1)
        await waits_for_retry(store)
        await clock.advance(10)
        await reached(store, 0, 1, 0)
    assert [each.last_word for each in sink.sent] == ["opt_out", "opt_in"]


async def test_an_older_word_that_is_replayed_writes_the_last_one(store, clock):
    sink = ConsentSink()
    async with working(store, clock, sink):
        await store.add(arrival(7, consent="opt_in"))
        await store.add(arrival(7, consent="opt_out"))
        await reached(store, 0, 2, 0)
        await store.replay("crm", [1])
        await reached(store, 0, 2, 0)
        await eventually(lambda: len(sink.sent) >= 3)
    assert {each.last_word for each in sink.sent[1:]} == {"opt_out"}


# a pause


class FieldGone(ConsentSink):
    """One whose records lack a field in the CRM: it takes words of consent, and nothing else."""

    async def send(self, delivery):
        self.sent.append(delivery)
        if delivery.record is not None:
            raise Pause("there is no field Nmae")

    async def check(self):
        return ["there is no field Nmae"]


async def paused(worker):
    await eventually(lambda: worker.status().state == "paused")


async def test_an_opt_out_passes_a_pause_for_other_fields(store, clock):
    sink = FieldGone()
    async with working(store, clock, sink, when=when("not opted_out")) as worker:
        await store.add(arrival(7))
        await paused(worker)
        await store.add(arrival(7, consent="opt_out"))
        await reached(store, 1, 1, 0)
        assert worker.status().state == "paused"
    assert sink.sent[-1].last_word == "opt_out"
    assert await accepted(store) == [{"crm"}]


async def test_what_else_an_opt_out_brings_waits_for_the_end_of_the_pause(store, clock):
    """Its word is written once; its record is delivered in its turn."""
    sink = FieldGone()
    async with working(store, clock, sink) as worker:
        await store.add(arrival(7))
        await paused(worker)
        await store.add(arrival(7, consent="opt_out"))
        await eventually(lambda: len(sink.sent) == 2)
        await eventually(is_accepted, store)
        await store.add(arrival(8, consent="opt_out"))
        await eventually(lambda: len(sink.sent) == 3)
    assert [each.record is None for each in sink.sent] == [False, True, True]
    assert [each.event.data["mobile"] for each in sink.sent[1:]] == [mobile(7), mobile(8)]


@pytest.mark.parametrize("error", [Pause("401"), Retry("503")])
async def test_an_opt_out_that_cannot_be_written_either_waits_for_the_probe(store, clock, error):
    sink = ConsentSink(lambda _: fail(error if len(sink.sent) > 1 else Pause("401")))
    async with working(store, clock, sink) as worker:
        await store.add(arrival(7))
        await paused(worker)
        await store.add(arrival(8, consent="opt_out"))
        await eventually(lambda: len(sink.sent) == 2)
        await store.add(arrival(9, consent="opt_out"))
        await reached(store, 3, 0, 0)
        assert len(sink.sent) == 2
    assert await accepted(store) == [set(), set()]


async def test_a_word_whose_record_is_yet_to_be_made_waits_for_the_rest(store, clock):
    """Alone it is refused: no record has the number, and without its other fields none is made."""
    mended = []

    def answer(delivery):
        if delivery.record is None:
            raise Reject("consent: LastName is missing")
        if not mended:
            raise Pause("there is no field Nmae")

    sink = ConsentSink(answer)
    async with working(store, clock, sink) as worker:
        await store.add(arrival(7))
        await paused(worker)
        await store.add(arrival(8, consent="opt_out"))
        await eventually(lambda: not worker._gate.may_send(SendKind.CONSENT))
        assert [each.record is None for each in sink.sent] == [False, True]
        await reached(store, 2, 0, 0)
        mended.append(True)
        await worker.resume()
        await reached(store, 0, 2, 0)
    assert await accepted(store) == [{"crm"}]


async def is_held_back(store):
    return await states(store) == [State.WAITING]


class WithoutConsent(FieldGone):
    """One whose class takes consent, and whose options do not."""

    @classmethod
    def takes_consent(cls, options, event):  # noqa: ARG003  it takes none
        return False


@pytest.mark.parametrize("broken", [False, True], ids=["its map works", "its map fails"])
async def test_a_paused_sink_without_the_option_is_sent_no_word(store, clock, broken):
    sink = WithoutConsent()
    template = "{{ 'Bill' | date('%m', '%d') }}" if broken else "Bill"
    changes = {"map": mapping(Name=template), "when": when("data.consent == 'opt_out'")}
    async with working(store, clock, sink, **changes) as worker:
        await worker._prober.sink_opened.wait()
        await worker._gate.pause("there is no field Nmae")
        await store.add(arrival(7, consent="opt_out"))
        await eventually(lambda: not worker._gate.may_send(SendKind.CONSENT))
        await eventually(is_held_back, store)
        assert not any(task.done() for task in worker._sending)
    assert sink.sent == []


async def test_an_opt_out_does_not_pass_a_pause_by_the_operator(store, clock):
    sink = ConsentSink()
    async with working(store, clock, sink) as worker:
        await eventually(lambda: worker.status().state == "running")
        await worker.pause("by hand")
        await store.add(arrival(7, consent="opt_out"))
        await reached(store, 1, 0, 0)
        await worker.resume()
        await reached(store, 0, 1, 0)
    assert await counts(store) == (0, 1, 0)


# the check


@pytest.mark.parametrize(
    ("consent", "when", "warned"),
    [
        ("", "data.keyword in ['JOIN'] and not opted_out", True),
        ("consent: {field: SMS_Opt_Out__c}", "data.keyword in ['JOIN'] and not opted_out", False),
        ("", "", False),
    ],
)
def test_the_check_warns_of_a_crm_whose_when_can_keep_opt_outs_away(
    tmp_path, consent, when, warned
):
    path = tmp_path / "relay.yaml"
    path.write_text(f"""
sinks:
  crm:
    plugin: salesforce
    {when and f"when: {when}"}
    map: {{LastName: Doe}}
    options:
      login_url: https://acme.my.salesforce.com
      client_id: an-id
      client_secret: a-secret
      {consent}
""")
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert result.exit_code == 0, result.output
    assert ("sinks.crm: its `when` can keep opt-outs away" in result.stderr) == warned
