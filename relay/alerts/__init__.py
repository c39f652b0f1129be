"""Alerts: what is wrong, who is told of it, and when they are told again or that it is over."""
