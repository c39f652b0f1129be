"""The extras: what can be installed beside the relay, and whether it is there."""

import importlib.util


def traces() -> bool:
    """Whether what traces want is installed."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
