"""The fallback: where callbacks go while the store cannot be written."""
