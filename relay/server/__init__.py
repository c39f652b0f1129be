"""The listeners: HTTP from the connection to the callback."""
