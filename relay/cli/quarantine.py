"""`relay quarantine`: callbacks that were not understood, or refused for their token."""

import contextlib
import sys
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import click

from relay.api import CHUNK, PAGE, Taken, TokenStatus
from relay.cli import HelpGroup, client, options
from relay.cli.client import ApiClient
from relay.cli.output import (
    count,
    local_time,
    print_json,
    print_pairs,
    print_table,
    progress,
)
from relay.cli.records import as_text, print_callback
from relay.config.loader import Config
from relay.event import kind_of
from relay.preview import Preview
from relay.redact import mask_all

TOKENS = {
    TokenStatus.VALID: "the token was wrong, and is valid now",
    TokenStatus.ELSEWHERE: "the token is valid now, the address is not in allow_from",
    TokenStatus.WRONG: "the token is wrong",
    TokenStatus.MISSING: "the token is missing",
    TokenStatus.UNVERIFIED: "it was not authentic",
}
UNPROVEN = {
    TokenStatus.ELSEWHERE: "that address is not in allow_from",
    TokenStatus.WRONG: "its token is not valid",
    TokenStatus.MISSING: "it has no token",
    TokenStatus.UNVERIFIED: "the source cannot verify it any more",
    TokenStatus.UNKNOWN: "whether its token is valid cannot be told",
}


@click.group(cls=HelpGroup)
def quarantine() -> None:
    """List, release or discard callbacks in quarantine."""


@quarantine.command("list")
@options.config
@options.as_json
@options.limit
def quarantine_list(config: Config, as_json: bool, limit: int) -> None:
    """List what is in quarantine, the newest first."""
    page = client.ask(config, lambda session: session.get("/quarantine", limit=limit))
    found = page["items"]
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("Received", "Source", "From", "Answer", "Reason", "Id"),
            [
                [
                    local_time(each["received"], config.timezone),
                    each["source"],
                    each["sender"] or "",
                    str(each["status"]),
                    TOKENS.get(each["token"], each["reason"]),
                    each["id"],
                ]
                for each in found
            ],
        )
        click.echo("`relay quarantine release ID` takes one in when the cause is mended.")
    else:
        click.echo("Nothing is in quarantine: every callback was understood.")


@quarantine.command("show")
@click.argument("quarantine_id", metavar="ID")
@options.config
@options.as_json
def quarantine_show(config: Config, as_json: bool, quarantine_id: str) -> None:
    """Show one callback as it came."""
    found = client.ask(
        config, lambda session: session.get(f"/quarantine/{client.part(quarantine_id)}")
    )
    if as_json:
        print_json(found)
        return
    callback = found.pop("callback")
    found["received"] = local_time(found["received"], config.timezone)
    print_pairs(found.items())
    print_callback(callback)
    if callback["parameters"] is not None:
        print_table(
            ("Parameter", "Value"),
            [[name, mask_all(value)] for name, value in callback["parameters"]],
        )


@quarantine.command("release")
@click.argument("ids", nargs=-1, metavar="[ID]…")
@options.config
@options.as_json
@options.yes
@click.option("--all", "all_", is_flag=True, help="All callbacks except those with a wrong token.")
@click.option(
    "--token-now-valid",
    is_flag=True,
    help="Callbacks with a token that was wrong and is valid now.",
)
@click.option("--dry-run", is_flag=True, help="Show what each sink would get; change nothing.")
def quarantine_release(
    config: Config,
    as_json: bool,
    yes: bool,
    ids: tuple[str, ...],
    all_: bool,
    token_now_valid: bool,
    dry_run: bool,
) -> None:
    """Make events of callbacks in quarantine, by the present configuration. The oldest go first.

    Anyone can send a callback with a wrong token (401). Such a one is taken in where its token is
    valid by now, or where you name it and confirm that.
    """
    if bool(ids) == (all_ or token_now_valid):
        raise click.UsageError("name callbacks, or say --all or --token-now-valid")
    chosen: set[str] = set()
    if ids and not dry_run:
        chosen = _confirmed(config, ids, yes=yes)

    async def question(session: ApiClient) -> dict[str, Any]:
        wanted, left = list(ids), 0
        if not ids:
            wanted, left = await _oldest_first(session, all_, token_now_valid)
        taken = Taken.TOKEN_NOW_VALID if ids or token_now_valid else Taken.NONE
        if ids and dry_run:
            taken = Taken.CHOSEN
        return await _released(session, wanted, chosen, taken, dry_run) | {"left": left}

    total = client.ask(config, question)
    if as_json:
        print_json(total)
    else:
        _print_released(total["released"], total["failed"], dry_run=dry_run)
        _print_left(total["left"], token_now_valid=token_now_valid)
    if total["failed"]:
        raise click.exceptions.Exit(1)


@quarantine.command("discard")
@click.argument("ids", nargs=-1, metavar="[ID]…")
@options.config
@options.yes
@click.option("--all", "all_", is_flag=True, help="All of them.")
def quarantine_discard(config: Config, yes: bool, ids: tuple[str, ...], all_: bool) -> None:
    """Delete callbacks from quarantine."""
    if bool(ids) == all_:
        raise click.UsageError("name callbacks, or say --all")
    if not yes:
        click.confirm("Throw them away for good?", abort=True, err=True)
    number = client.ask(
        config,
        lambda session: session.post("/quarantine/discard", ids=None if all_ else list(ids)),
    )["discarded"]
    click.echo(f"{count(number, 'callback')} discarded.")
    if ids and not number:
        raise click.exceptions.Exit(1)


def _confirmed(config: Config, ids: Iterable[str], *, yes: bool) -> set[str]:
    """The callbacks without a valid token. Each of them is confirmed by the operator."""

    async def question(session: ApiClient) -> list[dict[str, Any]]:
        found = []
        for each in ids:
            with contextlib.suppress(click.ClickException):  # the release says that it is not there
                found.append(await session.get(f"/quarantine/{client.part(each)}"))
        return found

    found = client.ask(config, question)
    doubtful = [each for each in found if each["token"] not in (None, TokenStatus.VALID)]
    for each in doubtful:
        words = _origin(each, config)
        if not yes and not sys.stdin.isatty():
            raise click.UsageError(f"{words}. To take it in all the same, say --yes.")
        if not yes:
            click.confirm(f"{words}. Take it in?", abort=True, err=True)
    return {each["id"] for each in doubtful}


def _origin(each: dict[str, Any], config: Config) -> str:
    sender = each["sender"] or "an address that is not known"
    received = local_time(each["received"], config.timezone)
    return (
        f"{each['id']} came to {each['source']} from {sender} at {received},"
        f" and {UNPROVEN[each['token']]}"
    )


async def _oldest_first(
    session: ApiClient, all_: bool, token_now_valid: bool
) -> tuple[list[str], int]:
    """The ids to release, and how many are left for their tokens.

    In the order in which they came, so that a contact's callbacks are released in theirs.
    """
    ids: list[str] = []
    left = 0
    async for rows in session.pages("/quarantine", limit=PAGE):
        for row in rows:
            unauthorized = row["token"] is not None
            valid = row["token"] == TokenStatus.VALID
            if token_now_valid and valid if unauthorized else all_:
                ids.append(row["id"])
            else:
                left += unauthorized
    return ids[::-1], left


async def _released(
    session: ApiClient, wanted: list[str], chosen: set[str], taken: Taken, dry_run: bool
) -> dict[str, list[dict[str, Any]]]:
    """The result of each release. Each of the chosen ones is a request by itself."""
    total: dict[str, list[dict[str, Any]]] = {"released": [], "failed": []}
    with progress(len(wanted), "releasing") as bar:
        for alone, group in groupby(wanted, key=chosen.__contains__):
            ids = list(group)
            size = 1 if alone else CHUNK
            for start in range(0, len(ids), size):
                chunk = ids[start : start + size]
                answer = await session.post(
                    "/quarantine/release",
                    ids=chunk,
                    dry_run=dry_run,
                    unauthorized=Taken.CHOSEN if alone else taken,
                )
                for part in total:
                    total[part] += answer[part]
                bar.advance(bar.task_ids[0], len(chunk))
    return total


def _print_released(
    released: list[dict[str, Any]], failed: list[dict[str, Any]], *, dry_run: bool
) -> None:
    for each in released:
        if dry_run:
            _print_would(each)
        else:
            click.echo(f"{each['id']} is now the {kind_of(each['type'])} {each['event']}.")
    for each in failed:
        click.echo(f"{each['id']} stays: {each['reason']}", err=True)
    would = "would be released" if dry_run else "released"
    number = len({each["id"] for each in released})
    click.echo(f"{count(number, 'callback')} {would}, {len(failed)} not.")
    if failed:
        click.echo(
            "`relay quarantine show ID` shows what came, `relay quarantine discard ID` deletes it.",
            err=True,
        )


def _print_left(left: int, *, token_now_valid: bool) -> None:
    if not left:
        return
    others = "" if token_now_valid else " `--token-now-valid` takes those whose token is valid now."
    verb = "waits" if left == 1 else "wait"
    click.echo(
        f"{count(left, 'callback')} with a wrong token (401) still {verb}.{others}"
        " `relay quarantine release ID` takes a single one."
    )


def _print_would(each: dict[str, Any]) -> None:
    click.echo(f"{each['id']} would be a {kind_of(each['type'])}")
    for sink in each["sinks"]:
        would = Preview(**sink)
        click.echo(f"  {would.sink}: {would.verdict}")
        if would.record is not None:
            click.echo(as_text(would.record, each["mobile"]))
