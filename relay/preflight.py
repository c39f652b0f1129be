"""Preflight: whether the relay would start with the current relay.yaml.

A reload asks this in a child process: plugins are imported there, so that the running relay keeps
its own.
"""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

import relay
from relay.clock import SystemClock
from relay.config.crosschecks import NO_LOGIN, UNGUARDED, guessable
from relay.config.loader import Config, ConfigError, LocatedIssue, judged, load
from relay.config.plugins import PluginError
from relay.config.writers import check_writers
from relay.delivery.manager import make_sink
from relay.fsutil import json_with_paths
from relay.server.sockets import ADMIN, PUBLIC, Listeners, bind_tcp
from relay.server.tls import Certificate
from relay.units import HostPort
from relay.validation import REFUSED_FROM, dotted

NO_POSTGRESQL = "PostgreSQL is not supported yet: name a file"

PATIENCE = 60.0
"""Seconds after which the child process is killed: an import of a plugin may hang."""


async def vet(path: Path, listeners: Listeners) -> list[str]:
    """What is wrong, one sentence each. Empty: the relay can restart."""
    try:
        async with asyncio.timeout(PATIENCE):
            status, output = await _run_child(path, listeners)
    except TimeoutError:
        return [f"{path}: it took more than {PATIENCE:.0f} seconds to load"]
    except OSError as error:  # such as a program that is being replaced
        return [f"{path}: it cannot be tried out: {error}"]
    if status or not output:
        return [f"{path}: loading it ended a process with status {status}"]
    return [str(each) for each in orjson.loads(output)]


async def _run_child(path: Path, listeners: Listeners) -> tuple[int | None, bytes]:
    """Exit status and output of the child process."""
    package = str(Path(relay.__file__).parent.parent)
    known = os.environ.get("PYTHONPATH")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "relay.preflight"),
        *(str(path), orjson.dumps(listeners.handles()).decode()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{package}:{known}" if known else package},
        pass_fds=listeners.descriptors(),
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output


def main() -> None:
    """Run in the child process: write the problems to the standard output, as JSON."""
    # The output is for the answer alone: what a plugin prints goes to the standard error.
    answer = os.dup(1)
    os.dup2(2, 1)
    path, handles = Path(sys.argv[1]), orjson.loads(sys.argv[2])
    problems = asyncio.run(_problems(path, Listeners.from_handles(handles)))
    os.write(answer, json_with_paths(problems))
    os.close(answer)
    os._exit(0)  # at once, whatever threads and exit handlers a plugin has left


async def _problems(path: Path, listeners: Listeners) -> list[str]:
    try:
        config = await vetted(path, listeners)
    except ConfigError as error:
        return [str(issue) for issue in error.issues]
    return _unusable(config, listeners)


async def vetted(path: Path, listeners: Listeners) -> Config:
    """The configuration. Raises ConfigError for all that would keep the relay from starting."""
    config = load(path, os.environ)
    config = check_activated(config, listeners, os.environ)
    config = judged(config, check_writers(config, os.environ), os.environ)
    if not isinstance(config.store, Path):
        raise ConfigError([LocatedIssue(path, None, "store", NO_POSTGRESQL)])
    if unmade := await unfit(config):
        raise ConfigError(
            [LocatedIssue(path, None, f"sinks.{n}", why) for n, why in unmade.items()]
        )
    return config


async def unfit(config: Config) -> dict[str, str]:
    """The enabled sinks that cannot be constructed, with the reason."""
    reasons = {}
    for name, sink in config.sinks.items():
        if sink.enabled and sink.held is None:
            try:
                await make_sink(sink, SystemClock()).http.aclose()
            except PluginError as error:
                reasons[name] = error.message
    return reasons


def _unusable(config: Config, listeners: Listeners) -> list[str]:
    """An invalid certificate, and new addresses that are in use.

    A port of the running relay will be free.
    """
    held = {address.port for _, address in listeners.bound}
    problems = []
    if tls := config.server.tls:
        try:
            Certificate(tls.cert, tls.key)
        except OSError as error:
            problems.append(f"{config.path}: server.tls: {error}")
    for use, address in ((PUBLIC, config.server.listen), (ADMIN, config.admin.listen)):
        if (
            listeners.activated.get(use)
            or (use, address) in listeners.bound
            or address.port in held
        ):
            continue
        try:
            bind_tcp(address).close()
        except OSError as error:
            problems.append(f"{config.path}: {error}")
    return problems


def check_activated(config: Config, listeners: Listeners, environ: Mapping[str, str]) -> Config:
    """Check the access control of listeners that systemd passed. Raises ConfigError.

    Returns the configuration with its warnings. The loader checks the addresses in relay.yaml.
    """
    given = {
        use: [HostPort(*each.getsockname()[:2]) for each in listeners.activated.get(use, [])]
        for use in (PUBLIC, ADMIN)
    }
    problems = [
        *(
            found
            for each in given[PUBLIC]
            if not each.loopback
            for found in _source_issues(config, each)
        ),
        *(_admin_issue(config, each) for each in given[ADMIN] if not each.loopback),
    ]
    return judged(config, problems, environ)


def _source_issues(config: Config, address: HostPort) -> Iterator[LocatedIssue]:
    for name, source in config.sources.items():
        place = ("sources", name)
        authenticates = config.source_plugins[name].authenticates
        if not (source.tokens or source.allow_from or authenticates):
            yield LocatedIssue(config.path, None, dotted(place), UNGUARDED.format(address))
        for index, token in enumerate(source.tokens):
            if flaw := guessable(token.get_secret_value(), address):
                where = dotted((*place, "tokens", index))
                yield LocatedIssue(config.path, None, where, flaw, REFUSED_FROM)


def _admin_issue(config: Config, address: HostPort) -> LocatedIssue:
    message = f"systemd passes {address}, but it {NO_LOGIN}"
    return LocatedIssue(config.path, None, "admin.listen", message)


if __name__ == "__main__":
    main()
