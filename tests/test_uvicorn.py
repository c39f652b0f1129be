"""What the relay takes from uvicorn beside its public API, checked against the installed version.

uvicorn may change any of it in a minor release, so pyproject.toml has a ceiling. To move the
ceiling: install the new version, run this file, and mend relay/server/ where a message here says.
"""

import ast
import asyncio
import importlib
import inspect
import socket
import textwrap

import pytest
import uvicorn
from uvicorn.protocols.http import flow_control, httptools_impl

from relay.server.http_server import HttpServer
from relay.server.protocol import Protocol, ServerState

VERSION = uvicorn.__version__

IMPORTED = {
    "uvicorn.config.Config": "the type of a protocol's configuration",
    "uvicorn.protocols.http.flow_control.FlowControl": "what cycle.py waits on before it writes",
    "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol": "the base of Protocol",
    "uvicorn.protocols.http.httptools_impl.STATUS_LINE": "the first line of each response",
    "uvicorn.server.ServerState": "the base of ServerState",
}
"""The names that relay/ imports from uvicorn's modules, and for what."""

HTTP = httptools_impl.HttpToolsProtocol
FLOW = flow_control.FlowControl

OVERRIDDEN = [
    (HTTP, "__init__", "config server_state app_state _loop"),
    (HTTP, "connection_made", "transport"),
    (HTTP, "connection_lost", "exc"),
    (HTTP, "eof_received", ""),
    (HTTP, "data_received", "data"),
    (HTTP, "on_message_begin", ""),
    (HTTP, "on_header", "name value"),
    (HTTP, "on_headers_complete", ""),
    (HTTP, "on_body", "body"),
    (HTTP, "on_message_complete", ""),
    (HTTP, "on_response_complete", ""),
    (HTTP, "shutdown", ""),
    (HTTP, "pause_writing", ""),
    (HTTP, "resume_writing", ""),
    (uvicorn.server.ServerState, "__init__", ""),
    (uvicorn.Server, "__init__", "config"),
    (uvicorn.Server, "on_tick", "counter"),
]
"""The methods that the relay overrides, with the names of their parameters."""

CALLED = [
    (HTTP, "on_url", "url"),
    (FLOW, "__init__", "transport"),
    (FLOW, "drain", ""),
    (FLOW, "pause_reading", ""),
    (FLOW, "resume_reading", ""),
    (FLOW, "pause_writing", ""),
    (FLOW, "resume_writing", ""),
    (uvicorn.Server, "startup", "sockets"),
    (uvicorn.Server, "main_loop", ""),
    (uvicorn.Server, "shutdown", "sockets"),
    (uvicorn.Config, "load", ""),
]
"""The inherited methods that the relay, or the parser for it, calls."""

UNUSED = {
    "_get_upgrade",
    "_should_upgrade",
    "_should_upgrade_to_ws",
    "_start_asgi_task",
    "_unset_keepalive_if_required",
    "_unsupported_upgrade_warning",
    "handle_websocket_upgrade",
    "send_400_response",
    "timeout_keep_alive_handler",
}
"""Methods of HttpToolsProtocol that only its own versions of the overridden ones call."""

ATTRIBUTES = {
    "config": "the uvicorn.Config",
    "app": "the application, which gives body_limit",
    "loop": "the event loop of deadlines and tasks",
    "parser": "the httptools parser, which calls the on_… methods",
    "app_state": "the `state` of each scope",
    "server_state": "the relay's own ServerState",
    "connections": "the server's open connections",
    "tasks": "the server's running requests",
    "headers": "the headers of the present request",
    "transport": "what responses are written to",
    "flow": "the FlowControl of the transport",
    "server": "the `server` of each scope",
    "client": "the peer's address",
    "scheme": "http, or https over TLS",
}
"""What Protocol reads of an instance of HttpToolsProtocol with a connection."""


def parameters(owner, name):
    """The names of a method's parameters; None where there is no such method."""
    method = inspect.getattr_static(owner, name, None)
    if not inspect.isfunction(method):
        return None
    return " ".join(list(inspect.signature(method).parameters)[1:])


def sources(root):
    """The syntax tree of each module of the relay."""
    return [ast.parse(path.read_text("utf-8")) for path in sorted((root / "relay").rglob("*.py"))]


class Transport(asyncio.Transport):
    """An open connection without a client."""

    def __init__(self, **extra) -> None:
        super().__init__(extra)

    def is_closing(self):
        return False

    def write(self, data):
        pass

    def close(self):
        pass

    abort = pause_reading = resume_reading = close


async def unused_app(scope, receive, send):
    raise NotImplementedError


def connected(protocol, state):
    """An instance of the protocol class with a connection."""
    config = uvicorn.Config(unused_app, http=protocol, lifespan="off", log_config=None)
    config.load()
    made = protocol(config, state, {"key": "value"}, asyncio.get_running_loop())
    made.connection_made(Transport(peername=("192.0.2.1", 1), sockname=("192.0.2.2", 2)))
    return made


@pytest.mark.parametrize(("name", "purpose"), IMPORTED.items())
def test_the_names_that_are_imported_are_there(name, purpose):
    module, _, attribute = name.rpartition(".")
    found = hasattr(importlib.import_module(module), attribute)
    assert found, f"uvicorn {VERSION} has no {name}; the relay takes from it {purpose}"


def test_no_other_name_is_imported(root):
    """A new use of uvicorn's insides is written down here, so that it is checked, too."""
    found = {
        f"{node.module}.{alias.name}"
        for tree in sources(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uvicorn.")
        for alias in node.names
    } | {
        text
        for tree in sources(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and (text := ast.unparse(node)).startswith("uvicorn.")
        if text.count(".") == 2 and text.split(".")[1].islower()
    }
    assert found == set(IMPORTED), "IMPORTED lists what relay/ imports from uvicorn's modules"


@pytest.mark.parametrize(("owner", "name", "expected"), OVERRIDDEN + CALLED)
def test_methods_take_the_parameters_that_the_relay_gives_and_gets(owner, name, expected):
    found = parameters(owner, name)
    where = f"uvicorn {VERSION}: {owner.__module__}.{owner.__qualname__}.{name}"
    assert found is not None, f"{where} is gone; relay/server/ overrides or calls it"
    assert found == expected, f"{where} has the parameters ({found}), not ({expected})"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Protocol, HTTP),
        (ServerState, uvicorn.server.ServerState),
        (HttpServer, uvicorn.Server),
    ],
)
def test_every_override_is_meant(ours, theirs):
    """A method of ours that uvicorn begins to have, too, would be called by uvicorn."""
    common = {
        name for name in vars(ours) if name in dir(theirs) and callable(getattr(ours, name))
    } - set(dir(object)) | {"__init__"}
    listed = {name for owner, name, _ in OVERRIDDEN if owner is theirs}
    assert common == listed, (
        f"uvicorn {VERSION}: {theirs.__qualname__} and the relay's {ours.__qualname__} share"
        f" {sorted(common ^ listed)}, which OVERRIDDEN does not say, or no longer"
    )


def test_uvicorns_protocol_has_no_method_that_the_relay_knows_nothing_of():
    """The parser or the server may call it: it is overridden, or listed as without effect."""
    known = UNUSED | {name for owner, name, _ in OVERRIDDEN + CALLED if owner is HTTP}
    new = {name for name in vars(HTTP) if inspect.isfunction(vars(HTTP)[name])} - known
    assert not new, f"uvicorn {VERSION}: {HTTP.__qualname__} has new methods: {sorted(new)}"


async def test_a_protocol_has_the_attributes_that_the_relay_reads():
    made = connected(HTTP, uvicorn.server.ServerState())
    lost = {name: why for name, why in ATTRIBUTES.items() if not hasattr(made, name)}
    assert not lost, f"uvicorn {VERSION}: {HTTP.__qualname__} no longer has {lost}"
    assert isinstance(made.flow, FLOW), f"uvicorn {VERSION}: flow is no FlowControl"
    found = (made.client, made.server, made.scheme, made.app_state)
    assert found == (("192.0.2.1", 1), ("192.0.2.2", 2), "http", {"key": "value"}), (
        f"uvicorn {VERSION}: client, server, scheme or app_state have another form"
    )
    assert made in made.server_state.connections, (
        f"uvicorn {VERSION}: a protocol no longer adds itself to the server's connections"
    )


def assigned(owner):
    """The attributes that the methods of a class set, and those of the class itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if ast.unparse(node.value) == "self"
    }
    return names | {name for name in vars(owner) if not callable(getattr(owner, name))}


@pytest.mark.parametrize(
    ("ours", "theirs", "shared"),
    [
        (Protocol, HTTP, {"headers", "url"}),
        (ServerState, uvicorn.server.ServerState, set()),
        (
            HttpServer,
            uvicorn.Server,
            {"lifespan", "server_state", "servers", "should_exit", "started"},
        ),
    ],
)
def test_only_these_attributes_are_set_by_uvicorn_and_by_the_relay(ours, theirs, shared):
    """Of another the one would overwrite the other's value."""
    dunders = set(dir(object)) | {"__module__", "__doc__", "__dict__", "__weakref__"}
    common = assigned(ours) & (assigned(theirs) | set(dir(theirs))) - dunders - {"__annotations__"}
    assert common == shared, (
        f"uvicorn {VERSION}: {theirs.__qualname__} and the relay's {ours.__qualname__} both set"
        f" {sorted(common)}, where {sorted(shared)} are meant"
    )


def test_status_lines_are_whole_lines_by_status():
    for status in (200, 401, 503):
        line = httptools_impl.STATUS_LINE[status]
        assert line.startswith(b"HTTP/1.1 %d " % status), f"uvicorn {VERSION}: STATUS_LINE {line}"
        assert line.endswith(b"\r\n"), f"uvicorn {VERSION}: STATUS_LINE {line}"


def test_a_servers_state_has_what_the_relay_counts_with():
    state = vars(uvicorn.server.ServerState())
    expected = {"total_requests": 0, "connections": set(), "tasks": set(), "default_headers": []}
    lost = {name: state.get(name) for name in expected if state.get(name) != expected[name]}
    assert not lost, f"uvicorn {VERSION}: a new ServerState has {lost}, not {expected}"


async def test_flow_control_says_whether_writing_is_paused():
    flow = FLOW(Transport())
    said = [flow.write_paused]
    flow.pause_writing()
    said.append(flow.write_paused)
    waiting = asyncio.create_task(flow.drain())
    await asyncio.sleep(0)
    assert not waiting.done(), f"uvicorn {VERSION}: drain() does not wait while writing is paused"
    flow.resume_writing()
    await asyncio.wait_for(waiting, 5)
    assert [*said, flow.write_paused] == [False, True, False], f"uvicorn {VERSION}: write_paused"


class Listener:
    """What a server is for uvicorn.Server: TlsAcceptor has these methods alone."""

    def __init__(self) -> None:
        self.calls = []

    def close(self):
        self.calls.append("close")

    async def wait_closed(self):
        self.calls.append("wait_closed")


async def test_a_shutdown_closes_the_servers_and_asks_each_connection_to_end():
    config = uvicorn.Config(unused_app, lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    server.servers = [Listener()]
    made = connected(HTTP, server.server_state)
    made.shutdown = lambda: server.server_state.connections.discard(made)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await asyncio.wait_for(server.shutdown(sockets=[listener]), 5)
        assert listener.fileno() == -1, f"uvicorn {VERSION}: shutdown() does not close the sockets"
    assert server.servers[0].calls == ["close", "wait_closed"], (
        f"uvicorn {VERSION}: shutdown() calls {server.servers[0].calls} of a server; TlsAcceptor"
        " has close and wait_closed"
    )


async def test_a_server_makes_protocols_with_the_parameters_that_the_acceptor_gives():
    """TlsAcceptor makes them itself, with config, server_state and app_state."""
    made = asyncio.get_running_loop().create_future()

    class Recorder(asyncio.Protocol):
        def __init__(self, **given) -> None:
            made.set_result(sorted(given))

    config = uvicorn.Config(unused_app, http=Recorder, lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    assert isinstance(server.lifespan.state, dict), f"uvicorn {VERSION}: lifespan has no state"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup(sockets=[listener])
        _, writer = await asyncio.open_connection(*listener.getsockname())
        given = await asyncio.wait_for(made, 5)
        writer.close()
        assert len(server.servers) == 1, f"uvicorn {VERSION}: servers do not go with the sockets"
        server.servers[0].close()
    assert given == ["_loop", "app_state", "config", "server_state"], (
        f"uvicorn {VERSION}: a server makes protocols with {given}"
    )


async def test_a_tick_says_whether_to_end_and_keeps_the_date():
    server = uvicorn.Server(uvicorn.Config(unused_app, log_config=None))
    server.config.load()
    assert await server.on_tick(0) is False, f"uvicorn {VERSION}: on_tick ends the main loop"
    names = [name for name, _ in server.server_state.default_headers]
    assert b"date" in names, f"uvicorn {VERSION}: on_tick sets no date in default_headers"
    server.should_exit = True
    assert await server.on_tick(1) is True, f"uvicorn {VERSION}: should_exit does not end it"
