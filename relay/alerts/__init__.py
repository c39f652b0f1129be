"""Alerts: rules that find what is wrong, and the notifications of it."""
