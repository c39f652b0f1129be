"""A relay that is killed at a named step: just before or just after the Nth call of a function.

python -m doomed relay.store.sqlite.ingest.add_all:after:20 [--hasty] run …
"""

import functools
import importlib
import inspect
import itertools
import os
import signal
import sys

import hasty

from relay.cli import main


def doom(step: str) -> None:
    """Put an end into the relay, at this step of it."""
    name, when, number = step.split(":")
    owner, attribute = found(name)
    setattr(owner, attribute, deadly(getattr(owner, attribute), when, int(number), step))


def found(name: str) -> tuple[object, str]:
    """The module or class, and its attribute."""
    *path, attribute = name.split(".")
    for length in range(len(path), 0, -1):
        try:
            owner = importlib.import_module(".".join(path[:length]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, path[length:], owner), attribute
    raise ModuleNotFoundError(name)


def deadly(function, when: str, number: int, step: str):
    """The function, whose Nth call is the process's last."""
    calls = itertools.count(1)

    def die() -> None:
        os.write(2, f"killed at {step}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    def plain(*args, **named):
        last = next(calls) == number
        if last and when == "before":
            die()
        result = function(*args, **named)
        if last:
            die()
        return result

    @functools.wraps(function)
    async def waiting(*args, **named):
        last = next(calls) == number
        if last and when == "before":
            die()
        result = await function(*args, **named)
        if last:
            die()
        return result

    return waiting if inspect.iscoroutinefunction(function) else plain


if __name__ == "__main__":
    doom(sys.argv.pop(1))
    if sys.argv[1] == "--hasty":
        del sys.argv[1]
        hasty.hasten()
    main(sys.argv[1:])
