"""The README cannot lie: its settings load, its code runs, its tour is gone through for real."""

import asyncio
import dataclasses
import hmac
import inspect
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import httpx
import leftovers
import orjson
import pytest
import yaml
from click.testing import CliRunner
from commandtree import COMMANDS, GROUPS
from standardwebhooks import Webhook
from stubs.receiver import Receiver, status
from sumotextsource import Sumotext

import relay
from relay import service
from relay.cli import main
from relay.config import loader
from relay.templating.environment import all_filters

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FENCED = re.compile(
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$|^<!-- tour: (?P<direction>[^\n]*) -->$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`([^`\n]+)`")

# What the examples fill in.
TOKEN = "pW3kq0v9Zr2Lx7TnB5yHc8Md"
ENVIRON = {"SUMOTEXT_TOKEN": TOKEN, "WEBHOOK_SECRET": "whsec_" + b64encode(b"k" * 32).decode()}
FILES = {
    "cert.pem": "a certificate",
    "key.pem": "a key",
    "data/hook.secret": ENVIRON["WEBHOOK_SECRET"] + "\n",
}


class Step(NamedTuple):
    """A fenced block, or (`language` is None) a direction that the reader does not see."""

    language: str | None
    text: str


def steps(text=README):
    return [
        Step(found["language"], found["text"] or found["direction"])
        for found in FENCED.finditer(text)
    ]


def blocks(language, text=README):
    return [step.text for step in steps(text) if step.language == language]


def section(title):
    """What stands under a heading, up to the next one of its level."""
    return re.split(r"^## ", README.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


def merged(base, fragment):
    """A fragment of relay.yaml laid over another; each says where it belongs from the top."""
    if not (isinstance(base, dict) and isinstance(fragment, dict)):
        return fragment
    return base | {key: merged(base.get(key), value) for key, value in fragment.items()}


def plugin_file():
    return next(block for block in blocks("python") if "hookimpl" in block)


@pytest.fixture
def folder(tmp_path):
    """A folder like that of the repository, with all that the examples name."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "ntfy.py").write_text(plugin_file())
    return tmp_path


def loaded(folder, *fragments):
    """The root relay.yaml with the fragments laid over it."""
    settings = yaml.safe_load((ROOT / "relay.yaml").read_text())
    for fragment in fragments:
        settings = merged(settings, yaml.safe_load(fragment) if fragment else None)
    (folder / "relay.yaml").write_text(yaml.safe_dump(settings))
    return loader.load(folder / "relay.yaml", ENVIRON)


# settings


@pytest.mark.parametrize("fragment", blocks("yaml"))
def test_each_example_of_settings_loads(folder, fragment):
    assert loaded(folder, fragment)


def test_the_examples_of_settings_load_together(folder):
    settings = loaded(folder, *blocks("yaml"))
    assert set(settings.sinks) == {"archive", "hook", "vip", "careful", "phone", "crm"}


def test_the_settings_named_as_defaults_are_the_defaults(folder):
    """The sink `careful` shows what holds where nothing is said, but for what it must show."""
    careful = next(block for block in blocks("yaml") if "careful" in block)
    shown, plain = loaded(folder, careful).sinks["careful"], loaded(folder).sinks["archive"]
    for name in ("concurrency", "timeout", "order", "retry", "breaker"):
        assert getattr(shown, name) == getattr(plain, name)


def test_every_setting_is_mentioned():
    """In the README, or where operators look."""
    operations = (ROOT / "docs" / "operations.md").read_text()
    told = [*INLINE.findall(README), *(step.text for step in steps() if step.language)]
    told += [*INLINE.findall(operations), *re.findall(r"(?ms)^```yaml\n(.*?)^```", operations)]
    code = "\n".join(told)
    settings = yaml.safe_load((ROOT / "config" / "relay.full.yaml").read_text())
    for name in sorted(set(setting_names(settings))):
        assert re.search(rf"\b{re.escape(name)}\b", code), name


def setting_names(settings, *, named=True):
    """Every key but the names that users give to their sources and sinks."""
    for key, value in settings.items():
        if named:
            yield key
        if isinstance(value, dict):
            yield from setting_names(value, named=key not in {"sources", "sinks"})


def test_every_helper_is_in_the_table():
    for name in all_filters(None):
        assert re.search(rf"^\| `{name}[`(]", README, re.MULTILINE), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"'{value.strip(' `')}' | {helper}", result.strip(" `"))
        for helper, values, results in re.findall(
            r"^\| `(\w+(?:\(.*?\))?)` \| (.*?) \| (.*?)(?:;.*)? \|$",
            section("relay.yaml"),
            re.MULTILINE,
        )
        for value, result in zip(values.split(" or "), results.split(" or "), strict=True)
    ],
)
def test_each_helper_does_what_its_row_says(folder, text, expected):
    sinks = {"sinks": {"archive": {"map": {"x": "{{ %s }}" % text}}}}  # noqa: UP031
    settings = loaded(folder, yaml.safe_dump(sinks))
    assert settings.sinks["archive"].map.record(an_event()) == {"x": expected}


def an_event():
    data = {"mobile": "+12125551212", "fields": {}}
    return relay.Event("an-id", "/callbacks/sumotext", "com.sumotext.poll", None, "now", data)


# code


@pytest.mark.parametrize("code", blocks("python"))
def test_each_example_of_code_compiles(code):
    compile(code, "README.md", "exec")


def test_the_check_of_a_signature_takes_what_is_signed_and_nothing_else(monkeypatch, capsys):
    secret = ENVIRON["WEBHOOK_SECRET"]
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    code = {}
    exec(next(block for block in blocks("python") if "WEBHOOK_SECRET" in block), code)
    body = orjson.dumps({"id": "an-id", "type": "poll", "data": {"mobile": "+12125551212"}})
    now = time.time()
    signed = Webhook(secret).sign("an-id", datetime.fromtimestamp(now, UTC), body.decode())
    headers = {
        "Webhook-Id": "an-id",
        "Webhook-Timestamp": str(int(now)),
        "Webhook-Signature": signed,
    }
    assert code["receive"](body, headers) == 204
    assert code["receive"](body + b" ", headers) == 401
    assert capsys.readouterr().out == "an-id poll +12125551212\n"


async def test_the_example_plugin_delivers_and_its_refusals_are_classed(folder):
    async with Receiver() as receiver:
        receiver.then(status(200), status(401))
        phone = next(block for block in blocks("yaml") if "ntfy" in block)
        here = {
            "server": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0"},
            "sinks": {
                "phone": {"options": {"url": receiver.url}, "allow_private": ["127.0.0.0/8"]}
            },
        }
        settings = loaded(folder, phone, yaml.safe_dump(here))
        async with service.started(settings) as running:
            for key in ("URGENT", "OTHER", "URGENT"):
                await call(running.address, f"mobile=2125551212&key={key}&msg=help&carrierId=V")
            await until(lambda: len(receiver.requests) == 2)
            await until(lambda: "paused" in str(running._sink_manager.states()["phone"]))
    first = receiver.requests[0]
    assert orjson.loads(first.body) == {"message": "help", "from": "+12125551212"}
    assert first.headers["priority"] == "4"


async def test_the_example_of_a_sink_with_a_quota_does_what_the_text_says():
    code = {}
    exec(next(block for block in blocks("python") if "relay.Quota" in block), code)
    asked = []

    def answer(request):
        asked.append(f"{request.method} {request.url.path}")
        return httpx.Response(200, json=["mobile"], headers={"x-calls-used": "9000"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        crm = code["Crm"]("crm", None, client, None)
        assert await crm.check() == []
        assert "made the field mobile" in await crm.setup(backfill=False, progress=print)
        event = an_event()
        await crm.send(relay.Delivery(event.id, event, event.to_dict()))
    assert asked == ["GET /fields", "PUT /fields/mobile", "POST /people"]
    assert crm.quota.bulk_wait() > 0


async def call(address, query):
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        url = f"http://127.0.0.1:{address[1]}/callbacks/sumotext?{query}"
        assert (await client.get(url)).status_code == 200


async def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)


def test_the_example_plugin_is_found_by_the_commands_beside_it(folder, monkeypatch):
    loaded(folder, next(block for block in blocks("yaml") if "ntfy" in block))
    monkeypatch.chdir(folder)
    for line in next(block for block in blocks("sh") if "plugins list" in block).splitlines():
        result = CliRunner().invoke(main, line.split()[1:], catch_exceptions=False)
        assert result.exit_code == 0
    assert "ntfy" in result.stdout


async def test_the_example_source_verifies_and_splits(tmp_path):
    (tmp_path / "plugins").mkdir()
    example = next(block for block in blocks("python") if "register_sources" in block)
    (tmp_path / "plugins/texts.py").write_text(example)
    config = tmp_path / "relay.yaml"
    config.write_text(
        "server: {listen: '127.0.0.1:0'}\nadmin: {listen: '127.0.0.1:0'}\n"
        "sources: {texts: {plugin: texts, options: {secret: ${TEXTS_SECRET}}}}\n"
    )
    body = (
        orjson.dumps([{"id": each, "from": f"212555010{each}", "text": "JOIN"} for each in (1, 2)])
        .replace(b'"id":1', b'"id":"1"')
        .replace(b'"id":2', b'"id":"2"')
    )
    signature = hmac.new(b"a-secret-of-texts", body, "sha256").hexdigest()
    loaded = loader.load(config, {"TEXTS_SECRET": "a-secret-of-texts"})
    async with service.started(loaded) as running, httpx.AsyncClient() as http:
        await running.opened()
        url = f"http://127.0.0.1:{running.address[1]}/callbacks/texts"
        wrong = await http.post(url, content=body, headers={"X-Signature": "no"})
        right = await http.post(url, content=body, headers={"X-Signature": signature})
    assert wrong.status_code == 401
    assert [each["type"] for each in right.json()["items"]] == ["com.texts.message"] * 2


def test_an_installed_plugin_is_named_as_the_loader_looks_for_it():
    (text,) = blocks("toml")
    assert tomllib.loads(text) == {"project": {"entry-points": {"relay": {"ntfy": "relay_ntfy"}}}}


def test_what_a_plugin_gets_is_described():
    """tests/test_docs_site.py holds that the reference has every exported name."""
    table = section("Writing a plugin")
    for fields in (relay.Delivery, relay.Event):
        for each in dataclasses.fields(fields):
            assert f"`{each.name}`" in table, each.name
    for name in inspect.signature(relay.Sink).parameters:
        assert f"`{name}`" in table, name
    for name, value in vars(relay.Sink).items():
        if inspect.iscoroutinefunction(value):
            assert re.search(rf"`{name}\(", table), name


# commands, answers, links


def rows(title):
    """The first cell of each row of a section's tables, as the code in it."""
    return [
        INLINE.findall(line.replace(r"\|", "/").split(" | ")[0])
        for line in section(title).splitlines()
        if line.startswith("| `")
    ]


def test_the_table_of_commands_has_all_that_help_has_and_nothing_else():
    described = {}
    for code in rows("Commands"):
        program, name, *rest = code[0].split()
        assert program == "relay"
        others = [each.split()[0] for each in code[1:]]
        described[name] = {rest[0], *others} if name in GROUPS else set()
    assert described == {
        name: set(getattr(command, "commands", ())) for name, command in COMMANDS.items()
    }


def test_help_and_the_table_name_the_same_commands():
    listed = CliRunner().invoke(main, ["--help"]).stdout.partition("\nSet up:")[2]
    assert set(re.findall(r"^  (\w+) ", listed, re.MULTILINE)) == {
        code[0].split()[1] for code in rows("Commands")
    }


def test_every_option_that_the_text_names_is_one():
    known = {
        option
        for command in itertools.chain(*map(every_command, COMMANDS.values()))
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "--version"}
    text = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    named = {word for code in INLINE.findall(text) for word in re.findall(r"(?<!\S)--[\w-]+", code)}
    assert named <= known


def every_command(command):
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from every_command(each)


def test_every_answer_of_the_listener_is_in_the_table():
    source = "".join(
        (ROOT / "relay" / "server" / f"{name}.py").read_text() for name in ("ingress", "protocol")
    )
    given = set(re.findall(r"(?:Refused|_refuse)\(\s*(\d{3}),", source)) | {"200"}
    table = section("What it promises, and what it does not")
    assert set(re.findall(r"^\| (\d{3}) \|", table, re.MULTILINE)) == given


def test_every_kind_and_every_link_is_there():
    for kind in Sumotext.kinds:
        assert f"`com.sumotext.{kind}`" in README
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            assert (ROOT / file).exists(), target
            assert not anchor or anchor in anchors(ROOT / (file or "README.md")), target


def anchors(file):
    """What a link may lead to in a page."""
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


# the tour

LONG_RUNNING = {
    "make run": "relay",
    ".venv/bin/python config/examples/receiver.py data/hook.secret 9000": "receiver",
    "make stubs": "stubs",
}
RECOVERED = """\
for each in $(seq 50); do
    relay status | grep -Eq 'hook +running +0' && break
    command sleep 1
done"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Terminal:
    """What the reader does: a folder, a shell, and programs that run beside it.

    All that differs from the page stands in `self.changes`.
    """

    def __init__(self, folder):
        self.folder = folder
        self.ports = {port: free_port() for port in ("8080", "8081", "9000", "8091")}
        self.changes = self.ports | {"sleep 30": RECOVERED}
        self.programs = {}
        self.said = ""
        self._prepare()
        self.shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def environment(self):
        """As of somebody who has just logged in, with nothing of the test's own."""
        return {
            "PATH": os.defpath + ":/usr/local/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            leftovers.MARK: os.environ[leftovers.MARK],
            "STUB_PORTS": f"{self.ports['8091']} {free_port()}",
        }

    def _prepare(self):
        for name in ("Makefile", "pyproject.toml", "constraints.txt", "config", "relay.yaml"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, self.folder / name)
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, module in {"python": "", "relay": "-m relay.cli", "apsw": "-m apsw"}.items():
            (programs / name).write_text(
                f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{ROOT} exec {sys.executable} {module} "$@"\n'
            )
            (programs / name).chmod(0o755)
        (self.folder / ".venv" / ".ready").touch()
        shutil.copytree(ROOT / "tests" / "stubs", self.folder / "tests" / "stubs")
        settings = self.folder / "relay.yaml"
        settings.write_text(self.changed(settings.read_text()))

    def changed(self, text):
        for old, new in self.changes.items():
            text = text.replace(old, new)
        return text

    def type(self, block):
        """Run what a block says, line for line; programs that stay are started beside the shell."""
        commands = []
        for line in block.splitlines():
            if name := LONG_RUNNING.get(line):
                self.run(commands)
                commands = []
                self.start(name)
            else:
                commands.append(line)
        self.run(commands)

    def run(self, lines):
        if lines:
            block = "\n".join(["{", *lines, "} < /dev/null", ""])
            self.shell.stdin.write(self.changed(block))
            self.shell.stdin.write('echo "ended with $?"\n')
            self.shell.stdin.flush()
            while not (line := self.shell.stdout.readline()).startswith("ended with "):
                assert line, f"the shell has gone: {self.said}"
                self.said += line
            assert line == "ended with 0\n", self.said

    def start(self, name):
        (command,) = (line for line, each in LONG_RUNNING.items() if each == name)
        with (self.folder / f"{name}.log").open("a") as log:
            self.programs[name] = subprocess.Popen(
                self.changed(command).split(),
                cwd=self.folder,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ready = {"relay": "callbacks are taken", "receiver": "waiting", "stubs": "keep"}[name]
        self.wait(lambda: ready in self.log(name), f"{name} did not start: {self.log(name)}")

    def stop(self, name):
        """Ctrl-C, which everything in that terminal gets."""
        program = self.programs.pop(name)
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait(15) in {0, -signal.SIGINT}, self.log(name)
        (self.folder / f"{name}.log").unlink()

    def direct(self, direction):
        action, _, name = direction.partition(" the ")
        if action in {"stop", "restart"}:
            self.stop(name)
        if action in {"start", "restart"}:
            self.start(name)

    def edit(self, fragment):
        path = self.folder / "relay.yaml"
        settings = merged(yaml.safe_load(path.read_text()), yaml.safe_load(self.changed(fragment)))
        path.write_text(yaml.safe_dump(settings, sort_keys=False))

    def log(self, name):
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def look(self, expected):
        """See what the page says that one sees."""
        wanted = [told(line) for line in expected.splitlines()]

        def missing():
            seen = [told(self.original(line)) for line in self.said.splitlines()]
            seen += [
                told(self.original(line))
                for name in self.programs
                for line in logged(self.log(name))
            ]
            return [line for line in wanted if not any(fits(line, each) for each in seen)]

        self.wait(lambda: not missing(), lambda: f"{missing()} is not in {self.said}")
        self.said = ""

    def original(self, text):
        for port, used in self.ports.items():
            text = text.replace(f":{used}", f":{port}").replace(f", {used})", f", {port})")
        return text

    def wait(self, condition, complaint, seconds=15):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, complaint() if callable(complaint) else complaint
            time.sleep(0.05)

    def close(self):
        for program in (*self.programs.values(), self.shell):
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)
            program.wait(10)
        self.shell.stdin.close()
        self.shell.stdout.close()


def told(line):
    """A line without what differs each time: ids, times, a table's spaces and rules."""
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", line)
    line = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{6}Z)?|^\d\d:\d\d:\d\d ", "TIME", line)
    return " ".join(line.replace("─", "").removeprefix("TIME").split())


def logged(text):
    """Lines of a log as they stand in a terminal."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            yield f"{entry['level'].upper()} {entry['logger']}: {entry['message']}"
        except ValueError:
            yield line


def fits(expected, line):
    return line.startswith(expected[:-1].strip()) if expected.endswith("…") else line == expected


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.mark.timeout(280)  # it starts some thirty programs, one after the other
def test_the_tour_goes_as_told(terminal):
    for step in steps(section("A five-minute tour")):
        match step.language:
            case "sh":
                terminal.type(step.text)
            case "text":
                terminal.look(step.text)
            case "yaml":
                terminal.edit(step.text)
            case None:
                terminal.direct(step.text)
    received = terminal.log("receiver")
    assert received.count("new ") == 13  # all of them, since it was started anew
    assert received.count("again ") == 3  # those that came after the break, replayed
    assert "refused" not in received
    check_the_backup(terminal)
    terminal.stop("relay")


def check_the_backup(terminal):
    """Made as the page says, while the relay runs; it is a store like any other."""
    (command,) = (block for block in blocks("sh") if "relay backup" in block)
    terminal.type(command)
    (terminal.folder / "elsewhere" / "data").mkdir(parents=True)
    (terminal.folder / "relay-backup.db").rename(terminal.folder / "elsewhere/data/relay.db")
    sources = "sources: {sumotext: {}}"
    (terminal.folder / "elsewhere" / "relay.yaml").write_text(sources)
    terminal.type("relay status --config elsewhere/relay.yaml")
    terminal.look("13 events, 0 callbacks in quarantine.")


def test_make_knows_the_two_commands():
    makefile = (ROOT / "Makefile").read_text()
    for line in next(block for block in blocks("sh") if "make test" in block).splitlines():
        assert f"\n{line.split()[1]}: " in makefile
