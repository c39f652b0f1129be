"""The documentation: pages as the code has them, links, and a strict build of the site."""

import importlib.util
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from commandtree import COMMANDS
from prometheus_client.parser import text_string_to_metric_families
from watching import readings

import relay
from relay import crm
from relay.config import plugins, schema
from relay.counters import OUTCOMES
from relay.monitoring.metrics import exposition

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE_PYTHON = ROOT / ".venv-docs" / "bin" / "python"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
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
