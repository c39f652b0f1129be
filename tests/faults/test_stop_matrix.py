"""A STOP in both CRMs, through all that may stand in its way.

Each is to be opted out everywhere where the number is, with nothing else touched, in seconds by a
real clock, and the log of consent is to say so.
"""

from datetime import UTC, datetime

import pytest
from stopmatrix import KEY, NUMBER, OF_NUMBER, Case, HubSpotCrm, SalesforceCrm, staged

from relay.store import State

DEAD = {"on_invalid": "dead"}
NOT_OURS = {"when": "data.keyword in ['VIP']"}
MADE = {"key": KEY, "mobile": NUMBER}
OWN = MADE | {"first": "Name1"}
LEADS = {"object": "Lead", "defaults": {"LastName": "Unknown", "Company": "n/a"}}
BOTH_KINDS = {"objects": ["Contact", "Lead"], "defaults": LEADS["defaults"]}
OPEN_LEAD = {"kind": "Lead", "last": "Roe", "mobile": "212-555-0001"}
CONVERTED = {
    "kind": "Lead",
    "last": "Doe",
    "phone": "(212) 555-0001",
    "has_become": {"last": "Doe", "email": "doe@home.example"},
}
URL = "https://x.example"
each_crm = pytest.mark.parametrize("crm", [SalesforceCrm, HubSpotCrm], ids=lambda crm: crm.name)


# what happens before and after it


async def five_bad_records(scene):
    """A field that everybody must have, and nobody has: what only the configuration can cause."""
    scene.crm.require("note")
    await scene.relay.send_many(range(2, 8))
    await scene.relay.reached(state="paused")


async def a_required_field(scene):
    scene.crm.require("note")


async def a_field_is_missing(scene):
    scene.crm.remove_field("note")
    await scene.relay.send(2)
    await scene.relay.reached(state="paused")


async def paused_by_hand(scene):
    await scene.relay.command("sinks", "pause", "crm")


async def resumed(scene):
    await scene.relay.command("sinks", "resume", "crm")


async def an_older_start(scene):
    await scene.relay.send(1, "START")
    await scene.relay.reached(delivered=1, pending=0)
    scene.start = datetime.now(UTC).isoformat()


async def replayed(scene):
    """After the STOP has been delivered."""
    await scene.relay.reached(delivered=2, pending=0)
    calls = len(scene.crm.stub.calls)
    period = ("--since", "2020-01-01", "--until", scene.start)
    await scene.relay.command("replay", "--sink", "crm", *period)
    await scene.crm.stub.called(calls + 1)


def losing(fault, call):
    """The next call of this kind is lost: before it takes effect, or after."""

    async def lose(scene):
        scene.crm.stub.fault(fault, on=getattr(scene.crm, call))

    return {"before": lose, "fires": fault}


def rule(setting, **more):
    """New and changed contacts alike in their number are duplicates, by a rule of the org."""

    async def make(scene):
        scene.crm.stub.duplicate_rule("Contact", "MobilePhone", edits=True, **more)

    alike = {"last": "Doe", "mobile": NUMBER}
    return {
        "before": make,
        "options": {"duplicates": setting},
        "of_number": (alike, *OF_NUMBER[1:]),
    }


def taken(setting):
    """The e-mail address that the STOP brings is another's."""
    return {"map": {"email": "taken@home.example"}, "options": {"on_conflict": setting}}


BOTH = [
    Case("nothing", made=(OWN,)),
    Case("when: by keyword", settings=NOT_OURS),
    Case("when: by kind", settings={"when": "kind == 'web_form'"}),
    Case("when: not opted_out", settings={"when": "data.keyword in ['JOIN'] and not opted_out"}),
    Case("when: it raises", settings={"when": "data.no.such > 1"}, ends=State.DEAD, says="when: "),
    Case(
        "a bad e-mail",
        map={"email": "{{ data.message }}"},
        options=DEAD,
        ends=State.DEAD,
        says="INVALID_EMAIL",
    ),
    Case(
        "a bad e-mail is dropped",
        map={"email": "{{ data.message }}"},
        made=(OWN,),
        says="INVALID_EMAIL",
    ),
    Case(
        "a name that is too long", map={"first": "{{ 'x' * 70000 }}"}, options=DEAD, ends=State.DEAD
    ),
    Case(
        "a map that raises",
        map={"note": "{{ 1 / 0 }}"},
        ends=State.DEAD,
        says="map: ",
    ),
    Case(
        "a filter that refuses",
        map={"note": "{{ data.message | date('%d', '%d') }}"},
        options=DEAD,
        ends=State.DEAD,
        says="not a date",
    ),
    Case("nobody has the number", settings=NOT_OURS, of_number=(), made=(MADE,)),
    Case(
        "nobody, and a map that raises",
        map={"note": "{{ 1 / 0 }}"},
        of_number=(),
        made=(MADE,),
        ends=State.DEAD,
    ),
    Case("a required field", before=a_required_field, ends=State.DEAD, says="REQUIRED"),
    Case("five bad records before it", before=five_bad_records, ends=State.WAITING),
    Case(
        "a pause: a field is missing",
        map={"note": "x"},
        before=a_field_is_missing,
        ends=State.WAITING,
    ),
    Case("a pause by hand", settings=NOT_OURS, before=paused_by_hand, after=resumed),
    Case("an older START, replayed", settings=NOT_OURS, before=an_older_start, after=replayed),
    Case("a lost answer: written", settings=NOT_OURS, **losing("drop_after_commit", "write")),
    Case("a lost answer: not written", settings=NOT_OURS, **losing("drop", "write")),
    Case("a lost answer: looked for", settings=NOT_OURS, **losing("drop", "look")),
]
OF_SALESFORCE = [
    Case("a name with a URL", map={"first": URL}, made=(OWN | {"first": URL},)),
    Case("a converted lead", options=LEADS, settings=NOT_OURS, of_number=(CONVERTED,)),
    Case(
        "a converted lead and an open one",
        options=LEADS,
        settings=NOT_OURS,
        of_number=(CONVERTED, OPEN_LEAD),
    ),
    Case(
        "a converted lead, and its own record", options=LEADS, of_number=(CONVERTED,), made=(OWN,)
    ),
    Case(
        "a contact, a converted lead and an open one",
        options=BOTH_KINDS,
        settings=NOT_OURS,
        of_number=(*OF_NUMBER, CONVERTED, OPEN_LEAD),
    ),
    Case("a duplicate rule: fail", **rule("fail"), ends=State.DEAD, says="DUPLICATES_DETECTED"),
    Case("a duplicate rule: allow_save", **rule("allow_save"), made=(OWN,)),
    Case("a duplicate rule: use_match", **rule("use_match"), own={"Doe": OWN}),
    Case(
        "a duplicate rule that blocks",
        **rule("allow_save", allow_save=False),
        ends=State.DEAD,
        says="DUPLICATES_DETECTED",
    ),
]
OF_HUBSPOT = [
    Case("an e-mail of another: separate", **taken("separate"), made=(OWN,), says="without email"),
    Case("an e-mail of another: adopt", **taken("adopt"), own={"Zoe": OWN}),
    Case("an e-mail of another: dead", **taken("dead"), ends=State.DEAD, says="already exists"),
    Case("a name with a URL", map={"first": URL}, options=DEAD, ends=State.DEAD),
]
CASES = [
    *[(crm, case) for crm in (SalesforceCrm, HubSpotCrm) for case in BOTH],
    *[(SalesforceCrm, case) for case in OF_SALESFORCE],
    *[(HubSpotCrm, case) for case in OF_HUBSPOT],
]


@pytest.mark.parametrize(("crm", "case"), CASES, ids=lambda each: getattr(each, "name", None))
async def test_a_stop_arrives(tmp_path, crm, case):
    async with staged(tmp_path, crm(), case) as scene:
        await scene.stop()
    report = scene.report()
    print(f"\n{scene.crm.name}: {case}: {report.seconds:.2f} s")
    report.sound()


# what it cannot do


@each_crm
async def test_what_is_refused_itself_is_written_elsewhere_and_said(tmp_path, crm):
    """One of two contacts may not be changed: that is no end that is accepted."""
    case = Case("one that cannot be written", settings=NOT_OURS, ends=State.DEAD, says="1 of 2")
    async with staged(tmp_path, crm(), case) as scene:
        locked = min(scene.targets)
        scene.crm.refuse(locked)
        await scene.stop(patience=2)
    report = scene.report()
    assert report.faults.pop("not opted out") == [locked]
    assert len(report.faults.pop("fields touched")) == 1
    assert report.faults.pop("words not accepted") == ["opt_out"]
    report.sound()


# the controls


@each_crm
async def test_without_the_option_the_oracle_sees_a_missing_opt_out(tmp_path, crm):
    case = Case("no option", map={"opted_out": "{{ opted_out }}"}, settings=NOT_OURS)
    async with staged(tmp_path, crm(), case, consent=None) as scene:
        await scene.stop(patience=0.5)
    faults = scene.report().faults
    assert sorted(faults["not opted out"]) == sorted(scene.targets)
    assert faults["words not accepted"] == ["opt_out"]
    assert report_is_bad(scene)


@each_crm
@pytest.mark.parametrize("whose", ["targets", "others"])
async def test_the_oracle_sees_a_field_that_is_touched(tmp_path, crm, whose):
    """Somebody's, of those who have the number and of those who have not."""
    async with staged(tmp_path, crm(), Case("a hand", settings=NOT_OURS)) as scene:
        ids = scene.targets if whose == "targets" else scene.crm.records().keys() - scene.targets
        touched = min(ids)
        await scene.stop()
        scene.report().sound()
        scene.crm.touch(touched)
        await scene.learn()
    assert [known for known, _ in scene.report().faults["fields touched"]] == [touched]
    assert report_is_bad(scene)


def report_is_bad(scene):
    with pytest.raises(AssertionError):
        scene.report().sound()
    return True
