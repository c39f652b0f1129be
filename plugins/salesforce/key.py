"""The key: what the template of the options makes of an event, or of a number alone."""

from collections.abc import Mapping

import relay
from relay import EvaluationError, Template

EVENT_ID = "00000000-0000-7000-8000-000000000000"


def is_of_contact(key: Template, event: relay.Event) -> bool:
    """Whether all events of the contact have the event's key; if not, each has its own record."""
    data = {name: event.data.get(name) for name in ("mobile", "country")}
    try:
        return key.render(_bare("", event.source, data)).strip() == key.render(event).strip()
    except EvaluationError:
        return False


def of_number(key: Template, mobile: str, country: str | None) -> str:
    """The key of whoever has this E.164 number; empty if it takes more than that to tell."""
    data = {"mobile": mobile, "country": country}
    try:
        one, other = (
            key.render(_bare(event_id, source, data)).strip()
            for event_id, source in (("", ""), (EVENT_ID, "/callbacks/any"))
        )
    except EvaluationError:
        return ""
    return one if one == other else ""


def example(key: Template) -> str:
    """A key as long as they come; empty where that takes a real event to tell."""
    data = {"mobile": "+491521234567890", "country": "DE"}
    try:
        return key.render(_bare(EVENT_ID, "/callbacks/sumotext", data)).strip()
    except EvaluationError:
        return ""


def _bare(event_id: str, source: str, data: Mapping[str, str | None]) -> relay.Event:
    return relay.Event(id=event_id, source=source, type="", subject=None, time="", data=data)
