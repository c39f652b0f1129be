"""Accounts: users by their numbers."""

import pwd


def user_name(number: int) -> str:
    """A user as sudo and chown take it: in a container, not every number has a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"
