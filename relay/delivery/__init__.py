"""The delivery: how what is stored gets to the sinks."""
