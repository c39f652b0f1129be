"""Yesterday's relay.yaml with a mistake that only today's release sees: one case for each rule.

`SITE` is where the rule stands, as `rule_sites` finds it: a rule without a case fails the test.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STRONG = "pW3kq0v9Zr2Lx7TnB5yHc8Md"
RULES = ("new_rule", "_new")
"""The functions that refuse something by a new rule."""

SOURCES = f"sources: {{sumotext: {{tokens: [{STRONG}]}}}}"
CRM = "{login_url: 'https://acme.my.salesforce.com', client_id: %s, client_secret: %s}"
PLUGIN = """\
import relay


class Mine(relay.Sink):
    @classmethod
    def own_files(cls, options):
        raise OSError("in its own way")

    async def send(self, delivery):
        return None


@relay.hookimpl
def register_sinks(register):
    register("mine", Mine)
"""


def open_to_all(path):
    path.chmod(0o666)


def with_plugin(path):
    (path.parent / "plugins").mkdir()
    (path.parent / "plugins/mine.py").write_text(PLUGIN)


@dataclass(frozen=True)
class Case:
    """`text` is put before defaults; `said` stands in the warning; `host` is listened on."""

    site: str
    text: str
    said: str
    prepare: Callable[[Path], None] = lambda _: None
    host: str = "127.0.0.1"

    def yaml(self):
        given = {line.partition(":")[0] for line in self.text.splitlines()}
        return self.text + ("" if "sources" in given else f"\n{SOURCES}") + "\n"


def hook(options, **more):
    settings = "".join(f", {name}: {value}" for name, value in more.items())
    return f"sinks: {{hook: {{plugin: webhook, options: {{{options}}}{settings}}}}}"


def receiver(rest):
    return hook(f"url: 'https://receiver.example/x', {rest}")


def salesforce(client_id="app", secret="key", **more):
    options = CRM % (client_id, secret)
    settings = "".join(f", {name}: {value}" for name, value in more.items())
    return f"sinks: {{crm: {{plugin: salesforce, options: {options}{settings}}}}}"


def jwt(key, username="me"):
    given = f"client_id: app, jwt: {{username: '{username}', key: \"{key}\"}}"
    return (
        "sinks: {crm: {plugin: salesforce, options: "
        f"{{login_url: 'https://login.salesforce.com', {given}}}}}}}"
    )


def hubspot(options, **more):
    settings = "".join(f", {name}: {value}" for name, value in more.items())
    return f"sinks: {{crm: {{plugin: hubspot, options: {{{options}}}{settings}}}}}"


def oauth(**given):
    values = {"client_id": "a", "client_secret": "b", "refresh_token": "c", **given}
    pairs = ", ".join(f'{name}: "{value}"' for name, value in values.items())
    return hubspot(f"oauth: {{{pairs}}}")


def tokens(*given):
    listed = ", ".join(f'"{each}"' for each in (STRONG, *given))
    return f"sources: {{sumotext: {{tokens: [{listed}]}}}}"


def mail(rest):
    return (
        f"alerts: {{email: {{host: mail.example, from: a@b.example, to: [c@d.example], {rest}}}}}"
    )


def plain(rest):
    return f"sinks: {{archive: {{plugin: csv, options: {{path: a.csv}}, {rest}}}}}"


BLANK = "is a blank text"
EMPTY, UNSEEN, PADDED = "is empty", "cannot be seen", "begins or ends with a space"
SPACED, QUOTED = "holds a space", "quotation mark"
SECRET = "relay/secret.py:_without.check"
NUMBER = "relay/units.py:_refuse_boolean"
AT_MOST = "relay/units.py:at_most.check"
BETWEEN = "relay/units.py:between.check"
SIZED = "relay/units.py:sized.check"
COUNTED = "relay/units.py:counted.check"
CLEAR = "relay/urls.py:check_confidential"
URL = "relay/urls.py:_http_url"
CROSS = "relay/config/crosschecks.py"

CASES = [
    Case(
        "relay/templating/expressions.py:_producer_field",
        hubspot("token: pat-1, activity: {event: {name: pe1_sms, map: {note: ' '}}}", map="{a: b}"),
        BLANK,
    ),
    Case(
        "relay/config/sinks.py:SinkChecker._check_constants",
        hubspot("token: pat-1", map="{note: ' '}"),
        BLANK,
    ),
    # Secrets that cannot arrive.
    Case(SECRET, tokens("\\uFEFFpW3kq0v9Zr2Lx7TnB5yHc8Md"), UNSEEN),
    Case(SECRET, tokens("pW3kq0v9 Zr2Lx7TnB5yHc8Md"), SPACED),
    Case(SECRET, tokens("pW3kq0v9Zr2Lx7TnB5yHc8Md\\r"), UNSEEN),
    Case(SECRET, tokens("pW3kq0v9\\nZr2Lx7TnB5yHc8Md"), UNSEEN),
    Case(SECRET, tokens("'pW3kq0v9Zr2Lx7TnB5yHc8Md'"), QUOTED),
    Case(SECRET, tokens("pW3kq0v9Zr2Lx7TnB5yHc8Md\\u00A0"), UNSEEN),
    Case(SECRET, tokens("${PADDED}"), PADDED),
    Case(SECRET, receiver("auth: {bearer: '${EMPTY}'}"), EMPTY),
    Case(SECRET, receiver("auth: {bearer: 'two words'}"), SPACED),
    Case(SECRET, receiver("auth: {bearer: '${QUOTED}'}"), QUOTED),
    Case(SECRET, receiver("auth: {basic: {username: a, password: '${EMPTY}'}}"), EMPTY),
    Case(SECRET, receiver("auth: {basic: {username: '${EMPTY}', password: b}}"), EMPTY),
    Case(SECRET, receiver('auth: {basic: {username: a, password: "b\\nc"}}'), UNSEEN),
    Case(SECRET, receiver("headers: {X-Key: '${EMPTY}'}"), EMPTY),
    Case(SECRET, receiver("headers: {X-Key: 'Bearer ${EMPTY}'}"), PADDED),
    Case(SECRET, salesforce(secret="'${EMPTY}'"), EMPTY),
    Case(SECRET, salesforce(secret="'${QUOTED}'"), QUOTED),
    Case(SECRET, salesforce(client_id="'app '"), PADDED),
    Case(SECRET, jwt("${EMPTY}"), EMPTY),
    Case(SECRET, jwt("-----BEGIN PRIVATE KEY-----\\\\nMII"), "in PEM"),
    Case(SECRET, jwt("-----BEGIN PRIVATE KEY-----", username="${EMPTY}"), EMPTY),
    Case(SECRET, hubspot("token: '${QUOTED}'"), QUOTED),
    Case(SECRET, oauth(client_id="${EMPTY}"), EMPTY),
    Case(SECRET, oauth(client_secret="${EMPTY}"), EMPTY),
    Case(SECRET, oauth(refresh_token="two words"), SPACED),
    Case(SECRET, mail("username: a, password: '${EMPTY}'"), EMPTY),
    Case(SECRET, mail("username: '${EMPTY}', password: b"), EMPTY),
    Case(SECRET, "tracing: {endpoint: 'http://127.0.0.1:9', headers: {a: '${EMPTY}'}}", EMPTY),
    # Secrets that go in clear.
    Case(CLEAR, hook("url: 'http://receiver.example', auth: {bearer: key}"), "https://"),
    Case(
        CLEAR,
        hook("url: 'http://receiver.example', auth: {basic: {username: a, password: b}}"),
        "https://",
    ),
    Case(CLEAR, hook("url: 'http://receiver.example', headers: {X-Api-Key: b}"), "https://"),
    Case(
        CLEAR,
        "tracing: {endpoint: 'http://collector.example', headers: {authorization: b}}",
        "https://",
    ),
    Case(URL, hook("url: 'https://receiver.example/a b'"), "no space"),
    # Numbers.
    Case(NUMBER, plain("concurrency: true"), "not true or false"),
    Case(NUMBER, plain("batch: {size: true}"), "not true or false"),
    Case(NUMBER, salesforce().replace("client_id", "quota: {share: true}, client_id"), "not true"),
    Case(NUMBER, mail("port: true"), "not true or false"),
    Case(AT_MOST, "server: {connections: {total: 1000000000}}", "at most 100000"),
    Case(AT_MOST, "server: {connections: {each: 1000000000}}", "at most 100000"),
    Case(AT_MOST, plain("retry: {attempts: 1000000000}"), "at most 10000"),
    Case(AT_MOST, plain("breaker: {failures: 1000000000}"), "at most 10000"),
    Case(BETWEEN, plain("timeout: 1ms"), "between 100ms and 1h"),
    Case(BETWEEN, plain("timeout: 1000000000s"), "between 100ms and 1h"),
    Case(BETWEEN, plain("retry: {initial: 1ms}"), "between 10ms and 7d"),
    Case(BETWEEN, plain("retry: {max: 1000000000s}"), "between 10ms and 7d"),
    Case(BETWEEN, plain("retry: {window: 1000000000s}"), "between 0s and 365d"),
    Case(BETWEEN, plain("breaker: {cooldown: 1ms}"), "between 10ms and 7d"),
    Case(BETWEEN, plain("batch: {wait: 1000000000s}"), "between 0s and 1h"),
    Case(BETWEEN, "retention: {delivered: 0s}", "between 1m and 36500d"),
    Case(BETWEEN, "retention: {dead: 1ms}", "between 1m and 36500d"),
    Case(BETWEEN, "retention: {quarantine: 1000000000d}", "between 1m and 36500d"),
    Case(BETWEEN, "alerts: {repeat: 1ms}", "between 1s and 365d"),
    Case(BETWEEN, "alerts: {rules: {backlog_age: 0s}}", "between 1s and 365d"),
    Case(BETWEEN, "alerts: {rules: {keyword_silent: {JOIN: 1ms}}}", "between 1s and 365d"),
    Case(SIZED, "store_reserve: 1000000000GiB", "1.0 TiB"),
    Case(SIZED, "retention: {quarantine_size: 1000000000GiB}", "1.0 TiB"),
    Case(
        SIZED,
        "sinks: {archive: {plugin: csv, options: {path: a.csv, rotate: {size: 0B}}}}",
        "between 1 B",
    ),
    Case(COUNTED, plain("rate: 5/1ms"), "between 10ms and 1d"),
    Case(
        COUNTED,
        f"sources: {{sumotext: {{tokens: [{STRONG}], limit: {{bytes: 64MiB/1000d}}}}}}",
        "between 10ms and 1d",
    ),
    Case(COUNTED, "alerts: {rules: {dead: 1/1ms}}", "between 1s and 365d"),
    # What several values come to together, or one on this machine.
    Case(
        f"{CROSS}:_check_tokens",
        f"server: {{proxies: [10.0.0.0/8]}}\n{tokens('a-short-1')}",
        "no better than",
    ),
    Case(
        "relay/preflight.py:_source_issues", tokens("a-short-1"), "no better than", host="0.0.0.0"
    ),
    Case(
        f"{CROSS}:check_listeners",
        f"server: {{listen: '[fe80::1%nosuch]:8080'}}\n{tokens()}",
        "no such network interface",
    ),
    Case(
        f"{CROSS}:check_listeners",
        f"server: {{listen: '[fe80::1]:8080'}}\n{tokens()}",
        "needs the network interface",
    ),
    Case(f"{CROSS}:check_listeners", "server: {listen: 'localhost:8081'}", "another port"),
    Case(
        f"{CROSS}:check_files",
        "sinks: {a: {plugin: csv, options: {path: x.csv}}, "
        "b: {plugin: csv, options: {path: ./x.csv}}}",
        "writes to x.csv, as sinks.a does",
    ),
    Case(
        f"{CROSS}:check_files",
        "sinks: {a: {plugin: csv, options: {path: 'd/{{ data.keyword }}.csv'}}, "
        "b: {plugin: csv, options: {path: 'd/{{ data.keyword }}.csv'}}}",
        "as sinks.a does",
    ),
    Case(
        f"{CROSS}:check_files",
        "sinks: {a: {plugin: csv, options: {path: data/relay.db.spill}}}\n"
        "store_fallback: data/relay.db.spill",
        "as store_fallback does",
    ),
    Case(f"{CROSS}:check_addresses", hook("url: 'http://10.0.0.5/x'"), "allow_private"),
    Case(f"{CROSS}:check_addresses", hook("url: 'http://localhost:1/x'"), "allow_private"),
    Case(
        f"{CROSS}:check_addresses",
        "alerts: {webhook: {url: 'http://127.0.0.1:9/'}}",
        "allow_private",
    ),
    Case(
        "relay/config/sinks.py:SinkChecker.own_files",
        "sinks: {mine: {plugin: mine}}",
        "own_files fails: OSError",
        with_plugin,
    ),
    Case(
        "relay/config/yaml.py:_Reader._mapping",
        plain("map: {<<: &base {a: b}, c: d}"),
        "no merge of mappings",
    ),
    Case(
        "relay/config/writers.py:check_writers",
        "store: data/relay.db",
        "can change it",
        open_to_all,
    ),
]


def rule_sites(root):
    """Where a value is refused by a new rule: `file:qualified.name`."""
    paths = [path for folder in ("relay", "plugins") for path in (root / folder).rglob("*.py")]
    return {
        f"{path.relative_to(root)}:{name}"
        for path in paths
        for name in refusing(path.read_text("utf-8"))
    }


def refusing(text):
    """The functions in a module's text that refuse something by a new rule."""
    return _refusing(ast.parse(text), ())


def _refusing(node, around):
    """The names of functions in which a rule's function is called, or REFUSED_FROM is passed."""
    for each in ast.iter_child_nodes(node):
        inner = around
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*around, each.name)
        if isinstance(each, ast.Call) and _refuses(each) and around[-1:] != ("_new",):
            yield ".".join(around)
        yield from _refusing(each, inner)


def _refuses(call):
    given = [*call.args, *(each.value for each in call.keywords)]
    return getattr(call.func, "id", None) in RULES or any(
        getattr(each, "id", None) == "REFUSED_FROM" for each in given
    )
