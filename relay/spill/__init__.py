"""The spill: an append-only file for callbacks while the store cannot be written."""
