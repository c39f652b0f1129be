"""The documentation: pages as the code has them, links, and a strict build of the site."""

import importlib.util
import itertools
import re
import shlex
import shutil
import subprocess
import textwrap
import tomllib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
import yaml
from commandtree import COMMANDS, GROUPS
from prometheus_client.parser import text_string_to_metric_families
from test_readme import merged
from watching import readings

import relay
from relay import crm
from relay.config import loader, plugins, schema
from relay.counters import OUTCOMES
from relay.monitoring.metrics import exposition

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE_PYTHON = ROOT / ".venv-docs" / "bin" / "python"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def generate():
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference(name):
    return (DOCS / "reference" / f"{name}.md").read_text()


# the generated pages


def test_the_reference_is_what_the_code_says(generate):
    stale = [name for name, text in generate.pages().items() if (DOCS / name).read_text() != text]
    assert not stale, f"{', '.join(stale)}: run `make reference` and commit what it writes"


def test_every_option_is_in_the_reference():
    document = schema.document(plugins.load([]))
    text = reference("relay-yaml") + reference("plugin-options")
    groups = {"relay.yaml": document, **document["$defs"]}
    for name, group in groups.items():
        for option in group.get("properties", {}):
            assert f"\n| `{option}` | " in text, f"{name}: {option}"


def test_every_command_and_its_options_are_in_the_reference():
    text = reference("cli")
    for words, command in commands().items():
        _, found, after = text.partition(f"\n## relay {words}\n")
        assert found, words
        section = after.partition("\n## ")[0]
        for option in command.params:
            for name in option.opts if isinstance(option, click.Option) else ():
                assert f"`{name}`" in section, f"{words} {name}"


def commands():
    found = {}
    for name, command in COMMANDS.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": inner[each] for each in inner} if inner else {name: command}
    return found


def test_every_hook_and_exported_name_is_in_the_reference():
    text = reference("plugin-api")
    hooks = [name for name in vars(plugins.Hooks) if not name.startswith("_")]
    assert hooks
    names = [*hooks, *(f"relay.{name}" for name in relay.__all__)]
    names += [f"relay.crm.{name}" for name in crm.__all__]
    for name in names:
        assert f"\n### {name}\n" in text, name


def test_every_metric_is_in_the_reference():
    text = reference("metrics")
    for family in text_string_to_metric_families(exposition(readings()).decode()):
        ending = "_total" if family.type == "counter" else ""
        assert f"\n| `{family.name}{ending}` | {family.type} | " in text, family.name


def test_every_answer_is_in_the_reference():
    text = reference("answers")
    for status in OUTCOMES:
        assert f"\n| {status} | " in text, status


# links


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    seen = Counter()
    for heading in HEADING.findall(FENCED.sub("", path.read_text())):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        yield f"{slug}-{seen[slug]}" if seen[slug] else slug
        seen[slug] += 1


def links(path):
    """Where the relative links of a page lead: the file, and the anchor."""
    for address in LINK.findall(FENCED.sub("", path.read_text())):
        if ":" not in address:
            file, _, anchor = unquote(address).partition("#")
            yield (path.parent / file).resolve() if file else path, anchor


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    for target, anchor in links(path):
        assert target.exists(), target
        if anchor and target.suffix == ".md":
            assert anchor in set(anchors(target)), f"{target}#{anchor}"


# what the pages show

BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SECRET = "pW3kq0v9Zr2Lx7TnB5yHc8Md"
CERTIFICATES = ("cert.pem", "key.pem", "tls/fullchain.pem", "tls/privkey.pem")
SHOWN = [path for path in PAGES if path.name != "README.md"]  # test_readme.py has that one


def blocks(path, language):
    found = BLOCK.findall(path.read_text())
    return [textwrap.dedent(text) for each, text in found if each == language]


def each_block(language):
    return [
        pytest.param(path, text, id=f"{path.relative_to(ROOT)}-{number}")
        for path in SHOWN
        for number, text in enumerate(blocks(path, language), 1)
    ]


def is_configuration(text):
    """Whether a block is a part of relay.yaml, from its top."""
    options = schema.document(plugins.load([]))["properties"]
    return set(yaml.safe_load(text)) <= set(options)


@pytest.mark.parametrize(("path", "text"), each_block("yaml"))
def test_each_part_of_relay_yaml_loads(path, text, tmp_path):
    if not is_configuration(text):
        pytest.skip("it is for another program")
    for name in CERTIFICATES:
        provide(tmp_path / name, "a file")
    for name in re.findall(r"\$\{credential:([\w-]+)\}", text):
        provide(tmp_path / "credentials" / name, SECRET)
    for code in blocks(path, "python"):
        for name in re.findall(r'register\("(\w+)"', code):
            provide(tmp_path / "plugins" / f"{name}.py", code)
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), SECRET)
    environ["CREDENTIALS_DIRECTORY"] = str(tmp_path / "credentials")
    base = yaml.safe_load((ROOT / "relay.yaml").read_text())
    base["sources"]["sumotext"]["tokens"] = [SECRET]
    settings = merged(base, yaml.safe_load(text))
    (tmp_path / "relay.yaml").write_text(yaml.safe_dump(settings))
    assert loader.load(tmp_path / "relay.yaml", environ)


def provide(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def relay_commands(text):
    """The words after `relay` of each command line in a block for the shell."""
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for number, word in enumerate(words):
            before = words[number - 1] if number else ""
            if Path(word).name == "relay" and set(before) <= set("|&;") | set("sudo"):
                yield list(
                    itertools.takewhile(
                        lambda each: not set(each) & set("|&;<>"), words[number + 1 :]
                    )
                )


@pytest.mark.parametrize(("path", "text"), each_block("sh"))
def test_each_command_line_of_the_pages_is_one(path, text):
    for words in relay_commands(text):
        command, rest = COMMANDS[words[0]], words[1:]
        if words[0] in GROUPS:
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_parser(click.Context(command)).parse_args(rest)


# the site


def in_navigation(entries):
    for entry in entries:
        match entry:
            case str():
                yield entry
            case dict():
                for below in entry.values():
                    yield from in_navigation(below if isinstance(below, list) else [below])


def test_every_page_is_in_the_navigation():
    settings = tomllib.loads((ROOT / "zensical.toml").read_text())
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert set(in_navigation(settings["project"]["nav"])) == pages


class Addresses(HTMLParser):
    """The addresses that a page loads or links to outside of the text that a person wrote."""

    def __init__(self):
        super().__init__()
        self.loaded = []
        self.linked = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if value and name in {"href", "src", "action", "srcset", "data"}:
                (self.linked if tag == "a" else self.loaded).append(value)


@pytest.mark.skipif(not SITE_PYTHON.exists(), reason="`make docs` has not been run")
def test_the_site_is_built_strictly_and_loads_nothing_from_outside(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    environ = {"PATH": "/usr/bin:/bin", "https_proxy": "http://127.0.0.1:9", "NO_COLOR": "1"}
    built = subprocess.run(
        [SITE_PYTHON, tmp_path / "docs/build.py"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    site = tmp_path / "build/site"
    written = set(re.findall(r"https?://[^)\s]+", "".join(map(Path.read_text, DOCS.rglob("*.md")))))
    pages = list(site.rglob("*.html"))
    assert len(pages) == len(list(DOCS.rglob("*.md"))) + 1  # and 404.html
    for page in pages:
        found = Addresses()
        found.feed(page.read_text())
        assert not [each for each in found.loaded if "//" in each], page
        assert {each for each in found.linked if "//" in each} <= written, page
        assert r"\|" not in page.read_text(), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()), style
    index = (site / "llms.txt").read_text()
    assert "reference/relay-yaml.md" in index
    assert "//" not in index
    for name in re.findall(r"\]\(<([^>]+)>\)", index):
        assert (site / name).is_file(), name
