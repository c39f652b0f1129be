"""Exporting: where the spans go, if anywhere."""

import importlib
from typing import Any

from relay.configuration.settings import Tracing
from relay.telemetry.tracing import Traces


def made(settings: Tracing | None) -> Traces | None:
    """What relay.yaml asks for. The extra is loaded only then: it takes its time."""
    if settings is None:
        return None
    otel: Any = importlib.import_module("relay.telemetry.otel")
    traces: Traces = otel.made(settings)
    return traces
