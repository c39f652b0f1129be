"""File descriptors: every connection takes one, and a process may usually open 1,024 alone."""

import resource


def raise_limit() -> int:
    """Open as many as the system lets this process; gives that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # the system's own ceiling has been lowered since
        return soft
    return hard


def limit() -> int:
    """How many this process may open now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def for_connections() -> int:
    """How many may be callers: a quarter is left to the store, the sinks and the commands."""
    return limit() * 3 // 4
