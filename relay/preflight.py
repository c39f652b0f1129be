"""Vetting: whether the relay would start with relay.yaml as it is now.

That is found out in a process of its own: plugins are loaded afresh there, and whatever they do
when imported is not done to the relay that runs.
"""

import asyncio
import os
import sys
from pathlib import Path

import orjson

import relay
from relay.clock import SystemClock
from relay.config.loader import Config, ConfigError, Problem, judged, load
from relay.config.plugins import PluginError
from relay.config.writers import check_writers
from relay.delivery.manager import make_sink
from relay.fsutil import json_with_paths
from relay.server.exposure import check_given
from relay.server.sockets import ADMIN, PUBLIC, Listeners, bind_tcp
from relay.server.tls import Certificate

NO_POSTGRESQL = "PostgreSQL is not supported yet: name a file"

PATIENCE = 60.0
"""Seconds after which a plugin that is slow to import is not waited for."""


async def vet(path: Path, listeners: Listeners) -> list[str]:
    """What is wrong, one sentence each; nothing, and the relay can start anew."""
    try:
        async with asyncio.timeout(PATIENCE):
            status, output = await _asked(path, listeners)
    except TimeoutError:
        return [f"{path}: it took more than {PATIENCE:.0f} seconds to load"]
    except OSError as error:  # the program is being replaced, say
        return [f"{path}: it cannot be tried out: {error}"]
    if status or not output:
        return [f"{path}: loading it ended a process with status {status}"]
    return [str(problem) for problem in orjson.loads(output)]


async def _asked(path: Path, listeners: Listeners) -> tuple[int | None, bytes]:
    """What the other process says."""
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
    """In the other process."""
    # What a plugin prints must not get between the two.
    answer = os.dup(1)
    os.dup2(2, 1)
    path, handles = Path(sys.argv[1]), orjson.loads(sys.argv[2])
    problems = asyncio.run(_problems(path, Listeners.from_handles(handles)))
    os.write(answer, json_with_paths(problems))
    os.close(answer)
    os._exit(0)  # whatever a plugin has left behind


async def _problems(path: Path, listeners: Listeners) -> list[str]:
    try:
        config = await vetted(path, listeners)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return _not_to_be_had(config, listeners)


async def vetted(path: Path, listeners: Listeners) -> Config:
    """What relay.yaml says. Raises ConfigError for all that would keep the relay from running."""
    config = load(path, os.environ)
    config = check_given(config, listeners, os.environ)
    config = judged(config, check_writers(config, os.environ), os.environ)
    if not isinstance(config.store, Path):
        raise ConfigError([Problem(path, None, "store", NO_POSTGRESQL)])
    if unmade := await unfit(config):
        raise ConfigError([Problem(path, None, f"sinks.{n}", why) for n, why in unmade.items()])
    return config


async def unfit(config: Config) -> dict[str, str]:
    """The sinks that cannot be made, which reading alone does not show, with the reason."""
    reasons = {}
    for name, sink in config.sinks.items():
        if sink.enabled and sink.held is None:
            try:
                await make_sink(sink, SystemClock()).http.aclose()
            except PluginError as error:
                reasons[name] = error.message
    return reasons


def _not_to_be_had(config: Config, listeners: Listeners) -> list[str]:
    """A certificate that is none, and new addresses that are taken.

    A port that the running relay listens on will be free.
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


if __name__ == "__main__":
    main()
