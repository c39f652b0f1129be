"""Callbacks: from what Sumotext sends to an event."""
