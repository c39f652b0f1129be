"""The commands start fast, as each imports what it needs; and the shell completes them."""

import http.server
import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest

import relay
from relay.cli import COMMANDS, main, options
from relay.cli.status import _quickly
from relay.state_directory import StateDirectory

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **{name: each for name, each in os.environ.items() if name != "RELAY_CONFIG"},
    "PYTHONPATH": str(ROOT),
}
HEAVY = {
    *("aiohttp", "apsw", "cryptography", "httpx", "jinja2", "phonenumbers", "pluggy", "pydantic"),
    *("asyncio", "rich.progress", "starlette", "uvicorn", "uvloop"),
}
YAML = """
store: data/store.db
timezone: America/New_York
sources:
  sumotext: {country: US}
  second: {country: US}
sinks:
  archive: {plugin: csv, options: {path: events.csv}}
  crm: {plugin: csv, options: {path: crm.csv}}
"""
STATUS = {
    "events": 3,
    "quarantine": 0,
    "spill": 2,
    "configuration": {"state": "current", "problems": [], "warnings": []},
    "sinks": {"crm": {"state": "running", "pending": 1, "delivered": 2, "dead": 0}},
}


def imported(*arguments, cwd=None):
    """The modules of a process that runs this command, and what it printed."""
    code = (
        "import sys\n"
        "from relay.cli import main\n"
        f"main({list(arguments)!r}, standalone_mode=False)\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=cwd
    )
    return set(found.stderr.split()), found.stdout


@pytest.fixture
def here(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "relay.yaml").write_text(YAML)
    return tmp_path


@pytest.fixture
def running(here):
    """Answers as a running relay does when it is asked for its status, or for a list."""
    status = json.loads(json.dumps(STATUS))
    answers = {"/api/v1/status": status, "/api/v1/sinks": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            body = json.dumps(answers.get(path, {"items": [], "next": None})).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(socketserver.ThreadingUnixStreamServer):
        def get_request(self):
            return self.socket.accept()[0], ("relay", 0)

    with Server(
        str(StateDirectory.around(here / "data/store.db").control_socket), Handler
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield status
        server.shutdown()
        thread.join()


def test_help_imports_nothing_of_the_relay():
    modules, output = imported("--help")
    assert "Keep:" in output
    assert not modules & {*HEAVY, "rich", "yaml"}
    assert {each for each in modules if each.startswith("relay")} == {"relay", "relay.cli"}


def test_status_imports_little(here, running):
    modules, output = imported("status", cwd=here)
    assert output.startswith("3 events")
    assert not modules & HEAVY
    assert not [each for each in modules if each.startswith(("relay.api.", "relay.store"))]


@pytest.mark.parametrize("command", ["events", "dead", "quarantine", "sinks"])
def test_a_list_imports_nothing_of_the_service(here, running, command):
    modules, output = imported(command, "list", cwd=here)
    assert output.startswith("No")
    assert not modules & {"aiohttp", "prometheus_client", "starlette", "uvicorn", "uvloop"}
    assert not [each for each in modules if each.startswith(("relay.api.", "relay.store."))]


def test_a_quick_status_goes_by_the_same_settings(here, running):
    config = options.usable_config(here / "relay.yaml")
    known, _ = _quickly(here / "relay.yaml")
    assert known == (config.path, config.state, config.timezone)


@pytest.mark.parametrize(
    "text",
    [
        YAML.replace("America/New_York", "Nowhere"),
        YAML.replace("data/store.db", "${STORE}"),
        YAML.replace("store: data/store.db", ""),
        YAML.replace("store: data/store.db", "store: [data]"),
        YAML + "\nstore_fallback: [data]\n",
        YAML.replace("America/New_York", "[UTC]"),
        YAML.replace("data/store.db", "other/store.db"),
        "store: data/store.db\n}",
        "",
    ],
)
def test_whatever_is_unusual_is_looked_at_in_full(here, running, text):
    (here / "relay.yaml").write_text(text)
    assert _quickly(here / "relay.yaml") is None


def test_a_file_that_the_relay_has_not_read_is_checked(here, running):
    running["configuration"]["state"] = "outdated"
    assert _quickly(here / "relay.yaml") is None


def test_each_command_is_where_the_table_says():
    ctx = click.Context(main)
    for name in COMMANDS:
        assert main.get_command(ctx, name).name == name
    assert main.get_command(ctx, "nonsense") is None


def test_the_names_of_the_plugin_api_are_there():
    for name in relay.__all__:
        assert getattr(relay, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        relay.nonsense  # noqa: B018


# Completion


@pytest.fixture
def program(here):
    """The command as the shell finds it."""
    path = here / "bin/relay"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom relay.cli import main\nmain()\n")
    path.chmod(0o755)
    return path


def completed(program, shell, line):
    """What the shell gets for the end of the line, and the errors that were printed."""
    words = line.split(" ")
    asked = {"_RELAY_COMPLETE": f"{shell}_complete", "COMP_WORDS": line}
    asked["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words) - 1)
    found = subprocess.run(
        [program],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT | asked,
        cwd=program.parent.parent,
    )
    return found.stdout, found.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(program):
    script = (
        'eval "$(_RELAY_COMPLETE=bash_source relay)"\n'
        "complete -p relay\n"
        'try() { COMPREPLY=(); _relay_completion relay; echo "${COMPREPLY[@]}"; }\n'
        "COMP_WORDS=(relay sinks pause a); COMP_CWORD=3; try\n"
        "COMP_WORDS=(relay re); COMP_CWORD=1; try\n"
    )
    found = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT | {"PATH": f"{program.parent}:{os.environ['PATH']}"},
        cwd=program.parent.parent,
    )
    bound, *replies = found.stdout.splitlines()
    assert "_relay_completion" in bound
    assert replies == ["archive", "reload replay restore"]
    assert not found.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("relay qua", {"quarantine"}),
        ("relay dead ", {"list", "replay", "discard"}),
        ("relay replay --si", {"--sink", "--since"}),
        ("relay replay --sink ", {"archive", "crm"}),
        ("relay setup c", {"crm"}),
        ("relay send web_form --source s", {"sumotext", "second"}),
    ],
)
def test_other_shells_complete(program, shell, line, words):
    output, errors = completed(program, shell, line)
    lines = output.splitlines()
    found = lines[1::3] if shell == "zsh" else [each.split(",")[1].split("\t")[0] for each in lines]
    assert words <= set(found)
    assert not errors


@pytest.mark.parametrize(
    ("sources", "kinds"),
    [
        ("{}", ["web_form", "poll", "text_4_info", "message"]),
        ("{a: {plugin: sumotext}}", ["web_form", "poll", "text_4_info", "message"]),
        ("{a: {plugin: mine}}", ["note", "reply"]),
        (
            "{a: {plugin: mine}, b: {}}",
            ["web_form", "poll", "text_4_info", "message", "note", "reply"],
        ),
        ("{a: {plugin: [x]}}", ["note", "reply"]),
    ],
)
def test_the_kinds_of_a_plugin_are_completed_and_it_is_not_run(program, sources, kinds):
    folder = program.parent.parent
    (folder / "relay.yaml").write_text(f"plugins: [mine]\nsources: {sources}\n")
    (folder / "mine").mkdir()
    (folder / "mine" / "mine.py").write_text(
        'class Mine:\n    kinds = ("note", "reply", 5)\nraise SystemExit\n'
    )
    (folder / "mine" / "no_python.py").write_text("kinds = (")
    (folder / "mine" / "made.py").write_text("class Made:\n    kinds = made()\n")
    (folder / "mine" / "number.py").write_text("kinds = 5\n")
    output, errors = completed(program, "zsh", "relay send ")
    assert output.splitlines()[1::3] == kinds
    assert not errors


@pytest.mark.parametrize("text", [None, "sinks: [", "sinks: [x]", "sinks: x", "- sinks"])
def test_completion_says_nothing_of_a_wrong_file(program, text):
    path = program.parent.parent / "relay.yaml"
    path.unlink() if text is None else path.write_text(text)
    output, errors = completed(program, "zsh", "relay sinks pause x")
    assert (output.strip(), errors) == ("", "")


def test_completion_reads_the_file_that_the_line_names(program):
    (program.parent.parent / "other.yaml").write_text("sinks: {elsewhere: {}}")
    output, _ = completed(program, "zsh", "relay sinks pause -c other.yaml e")
    assert output.splitlines()[1] == "elsewhere"
