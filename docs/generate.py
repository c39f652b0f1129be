# ruff: noqa: INP001  a script, in no package
"""Write the reference pages from the code: `make reference`.

What the code does not say is in docs/reference.yaml. A name of the code that has no text there is
an error, and so is a text without a name.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiosmtplib.protocol
import click
import yaml
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

import relay
from relay import api, crm, server
from relay.cli import main
from relay.cli.options import WrongConfiguration
from relay.config import plugins, schema
from relay.delivery import http, http_message, responses
from relay.monitoring.metrics import exposition
from relay.server import ingress, protocol
from relay.server.access import UNAUTHENTICATED_RATE
from relay.server.connections import MAX_MEMORY
from relay.server.protocol import Protocol
from relay.server.tls import TlsAcceptor
from relay.units import BYTE_RATE, DURATION, NEVER, RATE, SIZE, Rate, size_text

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from watching import readings

FOLDER = Path(__file__).parent
TEXTS = FOLDER / "reference.yaml"
COMMAND = "make reference"
MARK = f"<!-- Written by docs/generate.py from the code and docs/reference.yaml: {COMMAND} -->"

Rows = Iterable[Iterable[str]]


class Missing(Exception):
    """The code and docs/reference.yaml do not name the same things."""


def pages() -> dict[str, str]:
    """Every generated page: its path below docs/, and its text."""
    texts = yaml.safe_load(TEXTS.read_text())
    document = schema.document(plugins.load([]))
    found = {
        "relay-yaml": ("relay.yaml", relay_yaml(document)),
        "plugin-options": ("Options of the built-in plugins", plugin_options(document)),
        "cli": ("Commands", cli(texts["commands"])),
        "plugin-api": ("Plugin API", plugin_api()),
        "event": ("The event", event(texts["data"])),
        "metrics": ("Metrics", metric_tables()),
        "answers": ("Answers to callbacks", answers(texts["answers"])),
        "api": ("Control API", control_api(texts["routes"], texts["api_answers"])),
        "exit-statuses": ("Exit statuses", exit_statuses(texts["exit_statuses"])),
        "limits": ("Limits", limits(texts["limits"])),
    }
    return {
        f"reference/{name}.md": "\n".join(
            [MARK, "", f"# {title}", "", texts["intros"][name].strip(), "", *lines]
        ).rstrip()
        + "\n"
        for name, (title, lines) in found.items()
    }


def checked(what: str, code: Collection[Any], texts: Mapping[Any, Any]) -> None:
    """Raises Missing unless the code and the texts name the same things."""
    if lacking := sorted(set(map(str, code)) ^ set(map(str, texts))):
        raise Missing(f"{what} in the code or in docs/reference.yaml alone: {', '.join(lacking)}")


def table(heads: Iterable[str], rows: Rows) -> list[str]:
    """A table of Markdown, and an empty line."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(map(cell, line))} |" for line in lines] + [""]


def cell(text: str) -> str:
    """The text in one line, with no bar that would end the cell."""
    return " ".join(text.split()).replace("|", r"\|")


def code(text: str) -> str:
    return f"`{text}`"


# relay.yaml

PATTERNS = {
    f"^{DURATION}$": "duration",
    f"^({NEVER}|{DURATION})$": "duration or `never`",
    f"^{SIZE}$": "size",
    f"^{RATE}$": "rate",
    f"^({NEVER}|{RATE})$": "rate or `never`",
    f"^{BYTE_RATE}$": "rate of bytes",
    r":[0-9]{1,5}$": "address and port",
}
PLACEHOLDER = "#/$defs/Placeholder"


def relay_yaml(document: Mapping[str, Any]) -> Iterator[str]:
    """A section for each group of options, in the order of the whole."""
    yield from option_tables(document, document, "", "Top level")


def plugin_options(document: Mapping[str, Any]) -> Iterator[str]:
    """The options of each built-in plugin, with those of its groups below."""
    for name, group in sorted(document["$defs"].items()):
        if name.endswith(".options"):
            plugin = name.removesuffix(".options")
            yield from option_tables(document, group, plugin, plugin)


def option_tables(
    document: Mapping[str, Any], group: Mapping[str, Any], path: str, title: str
) -> Iterator[str]:
    """The options of a group, then those of the groups in it."""
    yield from (f"## {title}", "", description(group), "")
    inner: list[tuple[str, Mapping[str, Any]]] = []
    rows = []
    for name, option in group.get("properties", {}).items():
        at = f"{path}.{name}" if path else name
        below, place = group_of(document, option, at)
        if below is not None:
            inner.append((place, below))
        default = "required" if name in group.get("required", ()) else default_of(option)
        rows.append([code(name), type_of(option, place), default, description(option)])
    yield from table(["Option", "Type", "Default", "What it does"], rows)
    for place, below in inner:
        yield from option_tables(document, below, place, place)


def description(node: Mapping[str, Any]) -> str:
    return str(node.get("description", ""))


def group_of(
    document: Mapping[str, Any], option: Mapping[str, Any], at: str
) -> tuple[Mapping[str, Any] | None, str]:
    """The group that an option is, and its place; each of a mapping's groups is at `NAME`."""
    for node in alternatives(option):
        if ref := node.get("$ref"):
            return document["$defs"][ref.removeprefix("#/$defs/")], at
        values = node.get("additionalProperties")
        if isinstance(values, dict) and "$ref" in values and values["$ref"] != PLACEHOLDER:
            return document["$defs"][values["$ref"].removeprefix("#/$defs/")], f"{at}.NAME"
    return None, at


def alternatives(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The node, or what it may be, without null and without `${…}`."""
    if "anyOf" not in node:
        return [node]
    inner = [each for part in node["anyOf"] for each in alternatives(part)]
    left_out = ({"$ref": PLACEHOLDER}, {"type": "null"})
    return [each for each in inner if each not in left_out]


def type_of(node: Mapping[str, Any], place: str) -> str:
    """What may be written, in words."""
    return " or ".join(dict.fromkeys(one_type(each, place) for each in alternatives(node)))


def one_type(node: Mapping[str, Any], place: str) -> str:
    if "$ref" in node:
        return f"[{place}](#{place.lower().replace('.', '')})"
    if "enum" in node:
        return ", ".join(code(each) for each in node["enum"])
    match node.get("type"):
        case "array":
            return f"list of {type_of(node['items'], place)}"
        case "object":
            values = node.get("additionalProperties")
            if isinstance(values, dict) and values:
                return f"names with {type_of(values, place)}"
            return "names with values"
        case "integer" | "number" as kind:
            return "whole number" + bounds(node) if kind == "integer" else "number" + bounds(node)
        case "boolean":
            return "`true`, `false`"
        case "string":
            return PATTERNS.get(node.get("pattern", ""), "text")
        case list(kinds):
            return " or ".join(one_type({"type": each}, place) for each in kinds)
    return "any value"


def bounds(node: Mapping[str, Any]) -> str:
    """` from 1`, ` from 1 to 10`, ` up to 10`; empty where there are none."""
    least = node.get("minimum", node.get("exclusiveMinimum"))
    most = node.get("maximum", node.get("exclusiveMaximum"))
    text = "" if least is None else f" {'from' if 'minimum' in node else 'above'} {least}"
    return text if most is None else f"{text} {'up ' if least is None else ''}to {most}"


def default_of(node: Mapping[str, Any]) -> str:
    """The default as relay.yaml would say it."""
    default = node.get("default")
    if (isinstance(default, dict) and default) or "$ref" in node:
        return "see there"
    if default is None or default == {}:
        return "none"
    return code(default if isinstance(default, str) else json.dumps(default, ensure_ascii=False))


# commands


def commands() -> dict[str, click.Command]:
    """Every command that does something, by its words: `dead replay`."""
    context = top_context()
    found: dict[str, click.Command] = {}
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


def top_context() -> click.Context:
    """The context of `relay` itself, as its commands get it."""
    return click.Context(main, info_name="relay", **main.context_settings)


def cli(texts: Mapping[str, str]) -> Iterator[str]:
    """A section for each command: usage, arguments, options, what it prints."""
    found = commands()
    checked("commands", found, texts)
    for name, command in found.items():
        # click keeps a command's help option as its first context made it: the parent gives `-h`.
        context = click.Context(
            command, parent=top_context(), info_name=f"relay {name}", resilient_parsing=True
        )
        usage = " ".join(command.collect_usage_pieces(context))
        yield from (f"## relay {name}", "", "```text", f"relay {name} {usage}".strip(), "```", "")
        yield from (paragraphs(command.help), "")
        yield from table(["Option", "Default", "What it does"], option_rows(command, context))
        yield from (f"**Prints:** {texts[name].strip()}", "")


def paragraphs(text: str | None) -> str:
    """The help text with each paragraph in one line."""
    parts = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts).replace("\b ", "")


def option_rows(command: click.Command, context: click.Context) -> Rows:
    for option in command.get_params(context):
        if isinstance(option, click.Option) and not option.hidden:
            names = ", ".join(code(each) for each in (*option.secondary_opts, *option.opts))
            value = "" if option.is_flag or option.count else option.make_metavar(context)
            written = names + (f" {code(value)}" if value else "")
            yield written, option_default(option), help_of(option)


def option_default(option: click.Option) -> str:
    envvar = f", or `${option.envvar}`" if isinstance(option.envvar, str) else ""
    is_plain = isinstance(option.default, str | int) and not isinstance(option.default, bool)
    return code(str(option.default)) + envvar if is_plain else ""


def help_of(option: click.Option) -> str:
    if not option.help:
        raise Missing(f"the option {option.opts[0]} has no help text")
    return paragraphs(option.help)


# plugin API


def plugin_api() -> Iterator[str]:
    """The hooks, and every name of `relay` and of `relay.crm`."""
    yield from ("## Hooks", "")
    for name, hook in inspect.getmembers(plugins.Hooks, inspect.isfunction):
        yield from (f"### {name}", "", "```python", f"def {name}(register): ...", "```", "")
        yield from (paragraphs(hook.__doc__), "")
    yield from ("## relay", "")
    for name in sorted(relay.__all__, key=str.casefold):
        home = relay._HOMES.get(name)  # noqa: SLF001  the table of where each name is defined
        if home is not None:
            module, _, attribute = home.partition(":")
            yield from described("relay", name, module, attribute)
    yield from ("### relay.hookimpl", "", "The decorator of a hook: `@relay.hookimpl`.", "")
    yield from ("## relay.crm", "")
    for name in sorted(crm.__all__, key=str.casefold):
        yield from described("relay.crm", name, "relay.crm", name)


def described(package: str, name: str, module: str, attribute: str) -> Iterator[str]:
    """One name: its signature or value, its docstring, and a class's own methods."""
    node, text = definitions(module).get(attribute, (None, ""))
    if node is None or not text:
        raise Missing(f"{package}.{name} has no docstring in {module}")
    yield from (f"### {package}.{name}", "", "```python", *head(node, name), "```", "")
    yield from (paragraphs(text), "")
    if isinstance(node, ast.ClassDef):
        rows = [
            (code(signature(each)), paragraphs(ast.get_docstring(each)).replace("\n\n", " "))
            for each in node.body
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            and not each.name.startswith("_")
        ]
        yield from table(["Method", "What it does"], rows) if rows else ()


def definitions(module: str) -> dict[str, tuple[ast.stmt, str]]:
    """What a module defines at its top, each with its docstring."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text()).body
    found: dict[str, tuple[ast.stmt, str]] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found[node.name] = node, ast.get_docstring(node) or ""
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                text = ""
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    text = str(after.value.value)
                found[name] = node, text
            case ast.ImportFrom(module=str(origin), names=names):
                for each in names:
                    if origin.startswith("relay") and each.asname is None:
                        found.setdefault(each.name, (node, ""))
    return found


def head(node: ast.stmt, name: str) -> list[str]:
    """The line that a reader needs to use the name."""
    match node:
        case ast.ClassDef():
            initial = [each for each in node.body if getattr(each, "name", "") == "__init__"]
            if initial and isinstance(initial[0], ast.FunctionDef):
                return [f"class {name}{arguments(initial[0].args)}"]
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            fields = [f"    {ast.unparse(each)}" for each in node.body if is_field(each)]
            first = f"class {name}({bases}):" if bases else f"class {name}:"
            return [first, *(fields or ["    ..."])]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [signature(node, name)]
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            return [f"{name} = {ast.unparse(value)}"]
    return [name]


def is_field(node: ast.stmt) -> bool:
    match node:
        case ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]):
            return not name.startswith("_")
    return False


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str = "") -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    start = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{start}{name or node.name}{arguments(node.args)}{returns}"


def arguments(args: ast.arguments) -> str:
    """The parameters in brackets, without `self`."""
    return "(" + re.sub(r"^(self|cls)(, |$)", "", ast.unparse(args)) + ")"


# event


def event(texts: Mapping[str, str]) -> Iterator[str]:
    """An example, the attributes, and what `data` has."""
    example = an_event()
    checked("members of data", example["data"], texts)
    yield from ("## Example", "", "```json", *pretty(example), "```", "")
    node, text = definitions("relay.event")["Event"]
    assert isinstance(node, ast.ClassDef)
    yield from ("## Attributes", "", paragraphs(text), "")
    rows = [
        (code(each.target.id), code(ast.unparse(each.annotation)))
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    ]
    yield from table(["Attribute", "Type"], rows)
    yield from ("## data", "")
    yield from table(["Member", "Value"], ((code(f"data.{n}"), t) for n, t in texts.items()))


def pretty(value: Any) -> list[str]:
    """JSON, with each short list in one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return re.sub(r'\[\s+("[^"]*"),\s+("[^"]*")\s+\]', r"[\1, \2]", text).splitlines()


def an_event() -> dict[str, Any]:
    """What `relay preview` makes of a form that is filled in by text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "relay.yaml")
        path.write_text("sources: {sumotext: {}}\n")
        words = ["preview", "web_form", "Name=Bill", "Zip=10024", "--json", "-c", str(path)]
        result = CliRunner().invoke(main, words, input="2125550123\n", catch_exceptions=False)
    found: dict[str, Any] = json.loads(result.stdout)["event"]
    found |= {"id": "01a206f0-9b4e-7183-862d-ba14dcd29962", "time": "2026-11-23T05:46:01.420942Z"}
    del found["test"]
    return found


# metrics


def metric_tables() -> Iterator[str]:
    """Every metric that `/metrics` can have."""
    rows = []
    text = exposition(readings()).decode()
    for family in text_string_to_metric_families(text):
        labels = sorted({label for each in family.samples for label in each.labels} - {"le"})
        ending = {"counter": "_total"}.get(family.type, "")
        name = family.name + ending
        rows.append((code(name), family.type, ", ".join(map(code, labels)), family.documentation))
    yield from table(["Metric", "Type", "Labels", "What it is"], rows)


# answers to callbacks


def answers(texts: Mapping[int, Any]) -> Iterator[str]:
    """Every status with the sentences that its `detail` may have."""
    details: dict[int, set[str]] = {200: set()}
    for info in pkgutil.iter_modules(server.__path__, "relay.server."):
        for status, detail in refusals(info.name):
            details.setdefault(status, set()).add(detail)
    details.pop(421, None)  # the admin listener's
    checked("answers", details, texts)
    rows = [
        (str(status), texts[status]["when"], texts[status]["kept"], texts[status]["then"])
        for status in sorted(details)
    ]
    yield from table(["Status", "When", "Stored", "What to do"], rows)
    yield from ("## Details", "", "`detail` of the body is one of these sentences.", "")
    lines = [(str(status), each) for status in sorted(details) for each in sorted(details[status])]
    yield from table(["Status", "Detail"], lines)


def refusals(module: str) -> Iterator[tuple[int, str]]:
    """The status and the sentence of each refusal in a module; `…` for what varies."""
    loaded = importlib.import_module(module)
    assert loaded.__file__ is not None
    for function in ast.walk(ast.parse(Path(loaded.__file__).read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            names = dict(vars(loaded))
            for each in ast.walk(function):
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
                    names[each.targets[0].id] = sentence(each.value, names)
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    arguments_ = call.args[1:] if is_named(call, "send_problem") else call.args
                    if len(arguments_) >= 2 and is_named(
                        call, "send_problem", "CallbackRefused", "_refuse"
                    ):
                        status = sentence(arguments_[0], names)
                        detail = sentence(arguments_[1], names)
                        if status.isdecimal() and detail != "…":
                            yield int(status), detail


def is_named(call: ast.Call, *names: str) -> bool:
    return getattr(call.func, "id", getattr(call.func, "attr", "")) in names


def sentence(node: ast.expr, names: Mapping[str, Any]) -> str:
    """The text of an expression of constants; `…` for what is known only while it runs."""
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.Name(name) if isinstance(names.get(name), str | int):
            return str(names[name])
        case ast.JoinedStr(values=values):
            return "".join(sentence(each, names) for each in values)
        case ast.FormattedValue(value=value):
            return sentence(value, names)
    return "…"


# control API

METHODS = ("GET", "POST")


def control_api(texts: Mapping[str, str], statuses: Mapping[int, str]) -> Iterator[str]:
    """Every route with what it does, and the members of its query or body."""
    found = dict(routes())
    checked("routes", found, texts)
    yield from ("## Errors", "")
    yield from table(["Status", "When"], ((str(status), text) for status, text in statuses.items()))
    for route, handler in found.items():
        yield from (f"## {route}", "", texts[route].strip(), "")
        if members := members_of(handler):
            yield from table(["Member", "Type", "Default"], members)


def routes() -> Iterator[tuple[str, Any]]:
    """`GET /status` and the like, with the function that answers."""
    for info in pkgutil.iter_modules(api.__path__, "relay.api."):
        module = importlib.import_module(info.name)
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text())
        classes = {
            each.targets[0].id: vars(module).get(each.value.func.id)
            for each in ast.walk(tree)
            if isinstance(each, ast.Assign)
            and isinstance(each.targets[0], ast.Name)
            and isinstance(each.value, ast.Call)
            and isinstance(each.value.func, ast.Name)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Tuple(
                    elts=[
                        ast.Constant(value=str(method)),
                        ast.Constant(value=str(path)),
                        ast.Attribute(value=ast.Name(variable), attr=name),
                    ]
                ) if method in METHODS:
                    handler = getattr(classes.get(variable), name, None)
                    if variable == "maintenance":
                        handler = getattr(vars(module)["Maintenance"], name)
                    yield f"{method} /api/v1{path.replace(':int', '')}", handler


def members_of(handler: Any) -> list[tuple[str, str, str]]:
    """What the body or the query may have, as the handler's model says."""
    if handler is None:
        return []
    asked = re.search(r"(?:body|query)_of\(request, (\w+)\)", inspect.getsource(handler))
    if asked is None:
        return []
    model = sys.modules[handler.__module__].__dict__[asked[1]]
    properties = model.model_json_schema()
    return [
        (
            code(name),
            type_of(each, ""),
            "required" if name in properties.get("required", ()) else default_of(each),
        )
        for name, each in properties.get("properties", {}).items()
    ]


# exit statuses and limits


def exit_statuses(texts: Mapping[int, str]) -> Iterator[str]:
    """Every status that a command can end with."""
    raised = (click.ClickException, click.UsageError, WrongConfiguration)
    checked("exit statuses", {0, *(each.exit_code for each in raised)}, texts)
    yield from table(["Status", "When"], ((str(n), text) for n, text in sorted(texts.items())))


def limits(texts: Mapping[str, Any]) -> Iterator[str]:
    """Every limit with its figure, and what happens above it."""
    figures = {
        "request_head": size(protocol.MAX_HEAD),
        "body": size(protocol.MAX_BODY),
        "unauthorized_body": size(ingress.MAX_UNAUTHORIZED),
        "receive_timeout": f"{Protocol.receive_timeout:g} s",
        "tls_handshake": f"{TlsAcceptor.handshake_timeout:g} s",
        "idle_timeout": f"{Protocol.idle_timeout:g} s",
        "unauthorized_rate": per(UNAUTHENTICATED_RATE),
        "unfinished_requests": size(MAX_MEMORY),
        "interim_answers": str(responses.MOST_INTERIM),
        "answer_headers": str(http_message.MOST_HEADERS),
        "answer_head": size(http_message.LARGEST_HEAD),
        "answer_body": size(http.LARGEST_ANSWER),
        "crm_values": f"{crm.MOST_VALUES:,}",
        "mail_reply": size(aiosmtplib.protocol.MAX_RESPONSE_LENGTH),
    }
    checked("limits", figures, texts)
    rows = ((texts[name]["of"], figures[name], texts[name]["above"]) for name in texts)
    yield from table(["Limit", "Figure", "Above it"], rows)


def size(number: int) -> str:
    """`16 KiB`, without `.0`."""
    return size_text(number).replace(".0 ", " ")


def per(rate: Rate) -> str:
    return f"{rate.count:,} in {rate.per:g} s"


def write() -> None:
    """Write every page that has changed, and say which."""
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(path.relative_to(FOLDER.parent))  # noqa: T201  what the command is for


if __name__ == "__main__":
    write()
