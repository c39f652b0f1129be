"""relay.yaml: what it may say, and every mistake at once, each at its line."""

import ipaddress
import re
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from pydantic import BaseModel

from relay.config.loader import ConfigError, load
from relay.config.model import Settings, SinkSettings, SourceConfig
from relay.event import Event
from relay.units import HostPort, Rate

PLUGIN = """
from typing import Literal

import pydantic

import relay
from relay.templating.expressions import Template
from relay.units import Duration


class Login(relay.Options):
    user: str
    password: pydantic.SecretStr


class Options(relay.Options):
    object: str
    mode: Literal["upsert", "insert"] = "upsert"
    every: Duration = 5.0
    path: Template | None = None
    logins: list[Login] = []
    code: str = "ok"

    @pydantic.field_validator("code")
    @classmethod
    def _known(cls, code):
        if code != "ok":
            raise ValueError(f"{code} is no code")
        return code


class Crm(relay.Sink):
    Options = Options
    max_batch = 200

    async def send_batch(self, deliveries):
        return []


class Plain(relay.Sink):
    async def send(self, delivery):
        return None


@relay.hookimpl
def register_sinks(register):
    register("crm", Crm)
    register("plain", Plain)
"""
TOKENS = ["pW3kq0v9Zr2Lx7TnB5yHc8Md", "another-4Zr2Lx7TnB5yHc8Md"]
EVENT = Event("1", "/callbacks/a", "com.sumotext.poll", None, "2026-11-23T04:34:00.000000Z", {})


@pytest.fixture
def folder(tmp_path):
    """A folder for relay.yaml, with a plugin."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/crm.py").write_text(PLUGIN)
    return tmp_path


@pytest.fixture
def read(folder):
    """Load a relay.yaml with this text."""

    def read(text, *, fill=True, **environ):
        (folder / "relay.yaml").write_text(dedent(text))
        return load(folder / "relay.yaml", environ, fill=fill)

    return read


@pytest.fixture
def problems_of(read, folder):
    """What is wrong with a relay.yaml of this text, a line each."""

    def problems_of(text, **options):
        with pytest.raises(ConfigError) as caught:
            read(text, **options)
        return str(caught.value).replace(f"{folder}/", "").splitlines()

    return problems_of


def test_an_empty_file_has_every_default(read, folder):
    config = read("")
    assert config.server.listen == HostPort("127.0.0.1", 8080)
    assert config.server.tls is None
    assert config.admin.listen == HostPort("127.0.0.1", 8081)
    assert config.store == folder / "data/relay.db"
    assert config.timezone.key == "UTC"
    assert (config.sources, config.sinks) == ({}, {})


def test_a_sink_has_every_default(read):
    sink = read("sinks: {a: {plugin: plain}}").sinks["a"]
    assert (sink.name, sink.plugin, sink.sink_class.__name__) == ("a", "plain", "Plain")
    assert (sink.enabled, sink.when, sink.map, sink.rate) == (True, None, None, None)
    assert (sink.batch.size, sink.batch.wait) == (1, 0)
    assert (sink.concurrency, sink.timeout, sink.order) == (4, 30, "contact")
    assert (sink.retry.initial, sink.retry.max, sink.retry.attempts) == (5, 21600, 14)
    assert sink.retry.window == 4 * 86400
    assert (sink.breaker.failures, sink.breaker.cooldown) == (10, 60)
    assert sink.allow_private == []


def test_everything_that_can_be_said(read, folder):
    (folder / "cert.pem").touch()
    config = read(
        """\
        server: {listen: "[::]:443", tls: {cert: cert.pem, key: ./cert.pem}}
        admin: {listen: localhost:81}
        store: /var/lib/relay.db
        timezone: America/New_York
        plugins: [plugins, ./plugins]
        sources:
          web:
            country: USA
            kind: poll
            tokens: ["${TOKEN}", another-4Zr2Lx7TnB5yHc8Md]
            allow_from: [203.0.113.0/24, "2001:db8::/32", 192.0.2.1]
            rename: {city: label}
        sinks:
          crm-1:
            plugin: crm
            enabled: ${ENABLED}
            when: type == '${TYPE:-com.sumotext.poll}'
            map: {Type: "{{ type }}", Fax: null, Test: "{{ test }}"}
            options:
              {object: Lead, every: 1h, path: "{{ id }}.txt", logins: [{user: a, password: b}]}
            batch: {size: 50, wait: 1s}
            concurrency: "8"
            rate: 100/10s
            timeout: 250ms
            order: none
            retry: {initial: 1s, max: 1h, attempts: 3, window: 1d}
            breaker: {failures: 5, cooldown: 5s}
            allow_private: [10.0.0.0/8]
        """,
        TOKEN=TOKENS[0],
        ENABLED="false",
    )
    assert config.server.listen == HostPort("::", 443)
    assert config.server.tls.cert == config.server.tls.key == folder / "cert.pem"
    assert config.store == Path("/var/lib/relay.db")
    source = config.sources["web"]
    assert (source.country, source.kind, source.rename) == ("US", "poll", {"city": "label"})
    assert [token.get_secret_value() for token in source.tokens] == TOKENS
    assert source.allow_from[2] == ipaddress.ip_network("192.0.2.1/32")
    sink = config.sinks["crm-1"]
    assert (sink.enabled, sink.order, sink.rate) == (False, "none", Rate(100, 10))
    assert sink.when.matches(EVENT)
    assert sink.map.record(EVENT) == {"Type": "com.sumotext.poll", "Fax": None, "Test": False}
    assert sink.map.columns == ("Type", "Fax", "Test")
    assert (sink.options.object, sink.options.every) == ("Lead", 3600)
    assert sink.options.path.render(EVENT) == "1.txt"
    assert (sink.batch.size, sink.batch.wait, sink.concurrency) == (50, 1, 8)
    assert sink.allow_private == [ipaddress.ip_network("10.0.0.0/8")]


def test_the_batch_is_as_large_as_the_sink_takes(read):
    sinks = read("sinks: {a: {plugin: crm, options: {object: x}}}").sinks
    assert sinks["a"].batch.size == 200


def test_a_key_with_nothing_after_it_is_left_out(read):
    config = read("store:\nsources:\nsinks:\n  a:\n    plugin: plain\n    when:\n    retry:\n")
    assert config.store.name == "relay.db"
    assert config.sinks["a"].retry.attempts == 14


def test_when_may_be_a_plain_truth(read):
    assert not read("sinks: {a: {plugin: plain, when: false}}").sinks["a"].when.matches(EVENT)


def test_a_postgresql_url_is_kept_and_not_shown(read):
    config = read("store: postgresql://relay:secret@db/relay")
    assert config.store == "postgresql://relay:secret@db/relay"
    assert "secret" not in repr(config)


def test_no_repr_shows_a_secret(read):
    config = read(
        """\
        sources: {a: {tokens: [hushhush]}}
        sinks: {a: {plugin: crm, options: {object: hushhush, path: hushhush}}}
        """
    )
    assert "hushhush" not in repr(config)


def test_options_get_the_folder_and_the_environment(read, folder):
    (folder / "plugins/place.py").write_text(
        dedent("""\
        import pydantic, relay
        class Options(relay.Options):
            path: str
            @pydantic.field_validator("path")
            @classmethod
            def _absolute(cls, path, info):
                assert info.context["environment"].timezone.key == "Asia/Tokyo"
                return str(info.context["folder"] / path)
        class Place(relay.Sink):
            Options = Options
            async def send(self, delivery): ...
        @relay.hookimpl
        def register_sinks(register):
            register("place", Place)
        """)
    )
    config = read("timezone: Asia/Tokyo\nsinks: {a: {plugin: place, options: {path: x}}}")
    assert config.sinks["a"].options.path == str(folder / "x")


def test_paths_start_at_the_folder_of_the_file(folder, monkeypatch):
    """Wherever the command is run from, and however the file is named."""
    (folder / "relay.yaml").write_text("plugins: [plugins]\nsinks: {a: {plugin: plain}}")
    monkeypatch.chdir(folder / "plugins")
    config = load(Path("../relay.yaml"), {})
    assert config.store.resolve() == folder / "data/relay.db"
    assert config.folder.is_absolute()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"relay\.yaml: cannot be read: No such file"):
        load(tmp_path / "relay.yaml", {})


CRM = "sinks:\n  a:\n    plugin: crm\n    options:\n      object: Lead\n"


def mistakes():
    """What stands in mistakes.txt: pieces of YAML, each with its problems behind `> `."""
    for block in (Path(__file__).parent / "mistakes.txt").read_text().split("\n\n"):
        text, *problems = re.split(r"^> ", block, flags=re.MULTILINE)
        yield pytest.param(text, [each.strip() for each in problems], id=problems[0].strip()[:60])


@pytest.mark.parametrize(("text", "expected"), list(mistakes()))
def test_mistakes(problems_of, text, expected):
    assert problems_of(text) == [f"relay.yaml:{problem}" for problem in expected]


def test_every_mistake_is_told_at_once(problems_of):
    """In the order of the lines, whatever found them."""
    text = """\
        servr: {}
        timezone: Mars
        plugins: [gone]
        sources:
          a: {tokens: [${UNSET}], kind: x}
        sinks:
          a: {plugin: nothing}
          b:
            plugin: csv
            plugin: csv
            when: "("
            map: {A: "{{"}
            options: {path: "{{", x: 1}
            retry: {max: 1}
        """
    lines = [int(problem.split(":")[1]) for problem in problems_of(text)]
    assert lines == [1, 2, 3, 5, 5, 7, 10, 11, 12, 13, 13, 14]


def test_a_plugin_that_does_not_load_is_told_with_its_own_line(problems_of, folder):
    """Once: the sink that wants it is not at fault."""
    (folder / "plugins/bad.py").write_text("x = 1\nimport nothing_of_that_name\n")
    message = "ModuleNotFoundError: No module named 'nothing_of_that_name'"
    problems = problems_of("store: a\nplugins: [plugins]\nsinks: {a: {plugin: bad}}")
    assert problems == [f"relay.yaml:2: plugins: plugins/bad.py:2: {message}"]


SECRET = "hunter2{{hunter2"
SECRET_PLACES = [
    "server: {listen: '${S}'}",
    "timezone: ${S}",
    "store: mysql://${S}",
    "sources: {a: {country: '${S}', kind: '${S}', allow_from: ['${S}']}}",
    "sinks: {a: {plugin: '${S}'}}",
    CRM + "    when: ${S}",
    CRM + "    map: {A: '${S}'}",
    CRM + "      code: ${S}",
    CRM + "      mode: ${S}",
    CRM + "      path: ${S}",
    CRM + "    concurrency: ${S}",
]


@pytest.mark.parametrize("text", SECRET_PLACES)
def test_no_message_shows_a_value_that_was_filled_in(problems_of, text):
    assert "hunter2" not in "".join(problems_of(text, S=SECRET))


def test_what_is_not_shown_is_said_to_be_so(problems_of):
    expected = "sinks.a.options.code: is not right; its value was filled in, so it is not shown"
    assert expected in problems_of(CRM + "      code: ${S}", S="hunter2")[0]


def test_unfilled_placeholders_stay_where_the_command_does_not_need_them(read):
    """`status` and the like run without the service's environment."""
    config = read(
        """\
        server: {listen: "${LISTEN}", tls: {cert: "${CERT}", key: gone.pem}}
        sources: {a: {tokens: ["${TOKEN}"], country: "${COUNTRY}"}}
        sinks:
          a:
            plugin: crm
            enabled: ${ENABLED}
            when: data.keyword == '${WORD}'
            options: {object: "${OBJECT}", every: "${EVERY}", code: "${CODE}"}
            timeout: ${TIMEOUT}
            batch: {size: "${SIZE}"}
        """,
        fill=False,
        WORD="JOIN",
    )
    assert config.server.listen == HostPort("127.0.0.1", 8080)
    assert config.sources["a"].tokens[0].get_secret_value() == "${TOKEN}"
    sink = config.sinks["a"]
    assert (sink.enabled, sink.timeout, sink.batch.size) == (True, 30, 200)
    assert (sink.options.object, sink.options.every) == ("${OBJECT}", 5)


def test_required_options_that_lack_their_filling_in(read):
    login = "{user: {a: '${USER}'}, password: '${PASSWORD}'}"
    config = read(
        f"sinks: {{a: {{plugin: crm, options: {{object: x, logins: [{login}, {login}]}}}}}}\n"
        "sources: {a: {allow_from: ['${A}', 10.0.0.0/8, '${B}']}}",
        fill=False,
    )
    assert len(config.sinks["a"].options.logins) == 2
    assert config.sources["a"].allow_from == [ipaddress.ip_network("10.0.0.0/8")]


@pytest.mark.parametrize("place", ["plugin: ${NAME}", "plugin: plain, when: '${NAME}'"])
def test_what_cannot_do_without_its_filling_in(problems_of, place):
    (problem,) = problems_of(f"sinks: {{a: {{{place}}}}}", fill=False)
    assert problem.endswith("${NAME} is not set in the environment")


def test_other_mistakes_are_mistakes_without_filling_in_too(problems_of):
    problems = problems_of("store: ${STORE}\ntimezone: x\nsinks: {a: {plugin: x}}", fill=False)
    assert [problem.split(":")[1] for problem in problems] == ["2", "3"]


def test_the_smallest_configuration_loads(root):
    config = load(root / "relay.yaml", {})
    assert config.store == root / "data/relay.db"
    assert list(config.sinks) == ["archive"]
    assert config.sinks["archive"].options.path.render(EVENT) == "data/events.csv"


def keys_of(model, prefix=""):
    """Every key that a model knows, and those of the models in it."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")


def keys_in(values, prefix=""):
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys_in(value, f"{prefix}{name}.")


def test_the_full_configuration_shows_every_setting(root):
    values = yaml.safe_load((root / "config/relay.full.yaml").read_text())
    shown = set(keys_in(values))
    assert set(keys_of(Settings)) <= shown
    assert {f"sources.sumotext.{key}" for key in keys_of(SourceConfig)} <= shown
    assert {f"sinks.archive.{key}" for key in keys_of(SinkSettings)} <= shown


def test_the_full_configuration_shows_the_options_of_the_built_in_sinks(root):
    values = yaml.safe_load((root / "config/relay.full.yaml").read_text())
    shown = set(keys_in(values))
    for sink in load(root / "config/relay.full.yaml", {}).sinks.values():
        known = {f"sinks.{sink.name}.options.{key}" for key in keys_of(sink.sink_class.Options)}
        assert known <= shown


def test_the_full_configuration_shows_the_defaults(root, read):
    """What it says is what an empty file, or one with the bare sinks, says too."""
    full = load(root / "config/relay.full.yaml", {})
    bare = read(
        """\
        sources: {sumotext: {}}
        sinks:
          archive: {plugin: csv, options: {path: data/events.csv}}
          hook: {plugin: webhook, options: {url: https://hooks.example.com/sumotext}}
          crm:
            plugin: salesforce
            options:
              login_url: https://acme.my.salesforce.com
              client_id: an-id
              client_secret: a-secret
          people: {plugin: hubspot, options: {token: a-key}}
        """
    )
    assert (full.server, full.admin, full.timezone) == (bare.server, bare.admin, bare.timezone)
    assert full.sources == bare.sources
    for name, sink in full.sinks.items():
        for part in ("enabled", "when", "map", "batch", "concurrency", "rate", "timeout", "order"):
            assert getattr(sink, part) == getattr(bare.sinks[name], part), part
        for part in ("retry", "breaker", "allow_private"):
            assert getattr(sink, part) == getattr(bare.sinks[name], part), part
        assert shown(sink.options) == shown(bare.sinks[name].options)


def shown(options):
    """Templates by their text; all are made anew."""
    values = options.model_dump()
    return {name: getattr(value, "text", value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [("{code: 1}", "the plugin fails to check them: ZeroDivisionError"), ("{}", "KeyError")],
)
def test_a_plugin_that_fails_over_its_options_is_a_mistake_like_any_other(
    problems_of, folder, options, message
):
    (folder / "plugins/frail.py").write_text(
        dedent(
            """
            import pydantic, relay

            class Options(relay.Options):
                code: int = 0

                @pydantic.field_validator("code")
                @classmethod
                def _checked(cls, code):
                    return code / 0

            class Frail(relay.Sink):
                Options = Options

                async def send(self, delivery): ...

                @classmethod
                def batch_limit(cls, options):
                    raise KeyError(options)

            @relay.hookimpl
            def register_sinks(register):
                register("frail", Frail)
            """
        )
    )
    (problem,) = problems_of(
        f"plugins: [plugins]\nsinks: {{a: {{plugin: frail, options: {options}}}}}"
    )
    assert problem.startswith("relay.yaml:2: sinks.a.options: the plugin")
    assert problem.endswith(message)
