"""`relay doctor`: is anything wrong, or soon will be, and what is to be done?"""

import asyncio
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from relay.cli import client, control, local, options
from relay.cli.client import ApiClient
from relay.cli.output import count, print_json, printable, progress
from relay.config.loader import Config, ConfigError, LocatedIssue, load
from relay.doctor import Finding, ok, problem, security, sinks, storage, warning
from relay.sink import Notice

MARKS = {"ok": "ok", "warning": "WARNING", "problem": "PROBLEM"}


@click.command()
@options.config_path
@options.as_json
@click.option("--offline", is_flag=True, help="Do not ask the systems behind the sinks.")
def doctor(path: Path, as_json: bool, offline: bool) -> None:
    """Find what is wrong, or soon will be, and say what to do about it.

    It changes nothing. The exit status is 1 if there is a problem. A warning is not a problem.
    """
    raw = options.usable_config(path)
    filled = _filled(raw)  # while this is still root: only root may be able to read the secrets
    client.become_owner(client.store_file(raw))
    with progress(None, "looking") as bar:
        found = list(_examine(raw, *filled, offline, lambda: bar.advance(bar.task_ids[0])))
    if as_json:
        print_json([each.to_dict() for each in found])
    else:
        _print(found)
    if any(each.level == "problem" for each in found):
        raise click.exceptions.Exit(1)


def _examine(
    raw: Config, config: Config, unfilled: list[LocatedIssue], offline: bool, alive: Any
) -> Iterator[Finding]:
    store, now = client.store_file(raw), time.time()
    status, service = _service(raw)
    yield from _configuration(raw, unfilled, status)
    yield service
    yield from storage.disks(config, store)
    yield from storage.permissions(config, store)
    yield from security.exposed(raw)
    yield from security.sources(config)
    yield from security.certificate(config, now)
    yield from storage.library()
    yield from storage.store(store, now, alive)
    yield from storage.leftovers(config.state, now)
    yield from storage.ballast(config, running=status is not None)
    yield from sinks.halted(status)
    if not offline:
        ask = None if status is None else partial(_through_service, raw)
        yield from sinks.checked(config, unfilled, local.accounts_of(raw), ask, status)


def _filled(raw: Config) -> tuple[Config, list[LocatedIssue]]:
    """The configuration as the service has it, or what this command cannot know of it."""
    try:
        return load(raw.path, os.environ), []
    except ConfigError as error:
        return raw, error.issues


def _configuration(
    raw: Config, unfilled: list[LocatedIssue], status: dict[str, Any] | None
) -> Iterator[Finding]:
    subject = "configuration"
    state = (status or {}).get("configuration", {}).get("state", "current")
    for each in unfilled:
        if not each.message.startswith("${"):
            yield problem(subject, str(each), "mend it")
        elif status is not None and state == "current":
            yield ok(subject, f"{each}; the running relay knows it")
        else:
            advice = "the service may know it; if not, it does not start"
            yield warning(subject, str(each), advice)
    for text in raw.warnings:
        yield warning(subject, text, "mend it before that release")
    if all(each.message.startswith("${") for each in unfilled):
        sums = f"{count(len(raw.sources), 'source')}, {count(len(raw.sinks), 'sink')}"
        yield ok(subject, f"{raw.path} reads well: {sums}")
    if state != "current":
        yield problem(
            subject,
            f"the relay runs with an earlier {raw.path.name} ({state})",
            "relay check, then relay reload",
        )


def _service(raw: Config) -> tuple[dict[str, Any] | None, Finding]:
    """What the running service says of itself; no other way to the store would change nothing."""
    subject = "service"
    if not raw.state.folder.is_dir() or not control.served(raw.state):
        return None, warning(subject, "the relay is not running", "start it: relay run")
    try:
        status = client.ask(raw, lambda session: session.get("/status"))
    except click.ClickException as error:  # it runs without its store
        return None, problem(subject, error.message, "mend what is wrong with the store: see below")
    text = f"the relay runs, and has {count(status['events'], 'event')}"
    return status, ok(subject, text)


def _through_service(raw: Config, names: list[str]) -> dict[str, list[str]]:
    """What the sinks' checks find in the service."""

    async def checks(session: ApiClient) -> dict[str, list[str]]:
        found = await asyncio.gather(*(_check(session, name) for name in names))
        return dict(zip(names, found, strict=True))

    return client.ask(raw, checks)


async def _check(session: ApiClient, name: str) -> list[str]:
    try:
        answer = await session.post(f"/sinks/{client.part(name)}/check")
    except click.ClickException as error:  # it has an older relay.yaml
        return [error.message]
    return [*answer["problems"], *map(Notice, answer.get("notices", ()))]


def _print(found: list[Finding]) -> None:
    width = max(len(each.subject) for each in found)
    for each in found:
        click.echo(f"{MARKS[each.level]:<7}  {each.subject:<{width}}  {printable(each.text)}")
        if each.advice:
            click.echo(f"{'':<7}  {'':<{width}}  → {printable(each.advice)}")
    problems, warnings = (
        sum(each.level == level for each in found) for level in ("problem", "warning")
    )
    click.echo(f"\n{count(problems, 'problem')}, {count(warnings, 'warning')}.")
