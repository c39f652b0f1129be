"""`relay run`, the service until it is stopped; `relay reload`, which has it read relay.yaml."""

import asyncio
import contextlib
import logging
import os
import threading
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop

import relay
from relay import daemon, ownership
from relay.cli import client, control, options
from relay.cli.output import count, printable
from relay.config import last_good
from relay.config.last_good import ConfigStatus
from relay.config.loader import Config, ConfigError
from relay.monitoring import logs
from relay.ownership import user_name
from relay.preflight import check_activated, unfit, vetted
from relay.reexec import Inherited
from relay.server.sockets import Listeners
from relay.state_directory import StateDirectory

LINGER = 1.0
"""Seconds for an orderly end of the process, once the relay has stopped."""

PROGRAM = (os.__file__, relay.__file__)
"""What a user has to be able to read to run the relay."""

logger = logging.getLogger("relay")


@click.command()
@options.config_path
@click.option("--verbose", "-v", is_flag=True, help="Log each callback and delivery.")
def run(path: Path, verbose: bool) -> None:
    """Take callbacks and deliver them, until stopped (SIGTERM, Ctrl-C).

    `relay reload`, or SIGHUP, has relay.yaml and the plugins read again; where something is wrong,
    the relay says so and goes on as before.
    """
    logs.set_up(logging.DEBUG if verbose else logging.INFO)
    logs.catch_the_rest()
    inherited = Inherited.from_environ(os.environ)
    try:
        config = uvloop.run(_configuration(path, inherited.listeners))
    except ConfigError as error:
        raise options.WrongConfiguration(str(error)) from error
    _leave_files_to_owner(config)
    _run(_until_stopped(ConfigStatus(config), inherited))


def _leave_files_to_owner(config: Config) -> None:
    """As root, work on the store's files as their owner: that user may have planted links there.

    All else stays root's: a port below 1024, the secrets that a reload reads.
    """
    if os.geteuid() != 0 or not isinstance(config.store, Path):
        return
    if (owner := ownership.owner_of(config.store)) is None:
        return
    name = user_name(owner.user)
    try:
        with ownership.acting_for(config.store):
            readable = all(os.access(each, os.R_OK, effective_ids=True) for each in PROGRAM)
    except OSError:  # root of a namespace or a container that may not become other users
        readable = False
    if readable:
        ownership.give_up_files(owner)
        logger.warning("run as root: files are read and written as %s, the store's owner", name)
    else:
        logger.warning(
            "run as root, as %s cannot run this program, in whose folder the store is:"
            " root may follow links that %s makes there",
            name,
            name,
        )


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, which is not that of a plugin's own task.

    asyncio hands what a task raises to end the process past all others.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        main = loop.create_task(work)
        while True:
            try:
                return loop.run_until_complete(main)
            except SystemExit as error:
                if main.done():
                    raise
                place = traceback.extract_tb(error.__traceback__)[-1]
                at = f"{place.filename}:{place.lineno}"
                logger.error("a task wants to end the process (SystemExit), and may not: %s", at)


async def _configuration(path: Path, listeners: Listeners) -> Config:
    """What relay.yaml says; while it is wrong, what the relay last started with."""
    try:
        return await vetted(path, listeners)
    except ConfigError as wrong:
        last = last_good.load(path, os.environ, wrong, fill=True)
    last = check_activated(last, listeners, os.environ)
    return last_good.holding(last, await unfit(last))


async def _until_stopped(config_status: ConfigStatus, inherited: Inherited) -> None:
    """Run, and end the process then, whatever threads and tasks a plugin has left behind.

    All is on disk by then; asyncio and Python would wait for those as long as they please.
    """
    status = 1
    try:
        await daemon.run(config_status, inherited)
        status = 0
    finally:
        end = threading.Timer(LINGER, os._exit, [status])
        end.daemon = True
        end.start()


RELOAD_ATTEMPTS = 600
PAUSE = 0.1
"""Seconds from one look to the next for the image that follows: a drain takes up to ten."""


@click.command()
@options.config_path
def reload(path: Path) -> None:
    """Make the running relay read relay.yaml and the plugins again. No callback is refused.

    It returns when the relay runs with them. Where something is wrong, the relay goes on as before,
    and the exit status is 78.
    """
    config = options.usable_config(path, warn=False)
    client.become_owner(client.store_file(config))
    state = config.state
    if not state.folder.is_dir() or not control.served(state):
        raise click.ClickException("the relay is not running; `relay run` starts it")
    before = asyncio.run(_asked(state))
    if before["problems"]:
        _refuse(config.path, before["problems"], "the relay goes on with what was read before")
    after = asyncio.run(_next_image(state, before["image"]))
    if after["problems"]:  # it was edited meanwhile
        _refuse(config.path, after["problems"], "the last valid configuration is used instead")
    warnings = after["warnings"]
    said = f", with {count(len(warnings), 'warning')}" if warnings else ""
    click.echo(f"The relay runs with {config.path} as it is now{said}.")
    for each in warnings:
        click.echo(f"Warning: {printable(each)}")


async def _asked(state: StateDirectory) -> dict[str, Any]:
    answer: dict[str, Any] = await client.service(state).post("/reload")
    return answer


async def _next_image(state: StateDirectory, before: str) -> dict[str, Any]:
    """What the image of the process that follows says. Raises ClickException where none does."""
    for _ in range(RELOAD_ATTEMPTS):
        if control.served(state):
            with contextlib.suppress(click.ClickException):  # the image before ends
                answer: dict[str, Any] = await client.service(state).get("/reload")
                if answer["image"] != before:
                    return answer
        await asyncio.sleep(PAUSE)
    raise click.ClickException("the relay did not come back; its log says why")


def _refuse(path: Path, problems: list[str], instead: str) -> None:
    said = "\n".join(printable(each) for each in problems)
    raise options.WrongConfiguration(f"{said}\n{path} is wrong: {instead}.")
