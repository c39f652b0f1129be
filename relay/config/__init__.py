"""The configuration: relay.yaml, read and checked."""
