"""The control API: what the commands ask of the store and the sinks, as JSON over HTTP.

The running service serves it on a unix socket beside the store. Where no service runs, the
commands serve it to themselves, in their own process, under the store's lock.
"""

from relay.api.app import app

__all__ = ["app"]
