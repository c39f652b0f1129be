"""Exporting: where the spans go, if anywhere."""

import importlib
from typing import Any

from relay.config.model import Tracing
from relay.monitoring.tracing import Tracer


def made(settings: Tracing | None) -> Tracer | None:
    """What relay.yaml asks for. The extra is loaded only then: it takes its time."""
    if settings is None:
        return None
    otel: Any = importlib.import_module("relay.monitoring.otel")
    tracer: Tracer = otel.made(settings)
    return tracer
