"""Reads a plugin's quota defensively: nothing raises, and what is invalid limits nothing."""

import logging
import math
from collections.abc import Callable
from typing import Any, TypeVar

from relay.delivery.plugin_calls import PluginCall, inside
from relay.quota import Quota
from relay.sink import Sink

T = TypeVar("T")

NO_QUOTA = Quota()
NUMBERS = {"used": int, "most": int, "share": (int, float), "until": int}
"""The fields of a status and their types; each may be None."""


class SafeQuota:
    """The quota of one sink. A plugin may put anything into `quota`, at any time.

    The worker reads it with each claim, and an error would end the worker.
    """

    def __init__(self, name: str, sink: Sink, log: logging.Logger) -> None:
        self._call = PluginCall(name, "quota")
        self._sink = sink
        self._log = log
        self._logged = False

    @property
    def tight(self) -> bool:
        """As in Quota."""
        return self._read(lambda quota: bool(quota.tight), unknown=False)

    def bulk_wait(self) -> float:
        """As in Quota."""
        return self._read(_bulk_wait, unknown=0.0)

    def status(self) -> dict[str, Any]:
        """As in Quota."""
        return self._read(_status, unknown={})

    def _read(self, question: Callable[[Quota], T], unknown: T) -> T:
        try:
            with inside(self._call):
                quota = self._sink.quota
                return question(quota if isinstance(quota, Quota) else NO_QUOTA)
        except BaseException as error:  # noqa: BLE001  it is the plugin's: nothing here waits
            self._log_once(error)
            return unknown

    def _log_once(self, error: BaseException) -> None:
        if not self._logged:
            self._logged = True
            self._log.error(
                "its quota cannot be read: it goes on without one; correct the plugin",
                exc_info=error,
            )


def _bulk_wait(quota: Quota) -> float:
    seconds = float(quota.bulk_wait())
    if not math.isfinite(seconds):
        raise ValueError("bulk_wait is no time")
    return max(0.0, seconds)


def _status(quota: Quota) -> dict[str, Any]:
    reported = quota.status()
    status = {name: reported[name] for name in NUMBERS} if reported else {}
    for name, value in status.items():
        if value is not None and not isinstance(value, NUMBERS[name]):  # type: ignore[arg-type]
            raise TypeError(f"{name} is no number")
    return status
