"""The Sumotext source as the loader gives it, and events that it makes."""

import logging
import sys
from dataclasses import replace

from relay.config import plugins

Sumotext = plugins.load([]).sources["sumotext"].source_class
module = sys.modules[Sumotext.__module__]
consent = module.consent


def source(name="sumotext", **options):
    """A source with these options."""
    return Sumotext(name, Sumotext.Options(**options), logging.getLogger("relay.test.sumotext"))


def understand(callback, event_id="id-1", **options):
    """The event that such a source makes of a callback. Raises InvalidCallback."""
    return replace(source(**options).parse(callback), id=event_id)


def source_plugins(sources):
    """What reads the callbacks of sources that relay.yaml describes like this."""
    return {
        name: source(name, country=each.country, kind=each.kind, rename=each.rename)
        for name, each in sources.items()
    }
