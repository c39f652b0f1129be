"""Telemetry: what metrics, logs and traces show of a running relay."""
