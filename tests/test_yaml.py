"""YAML as the relay reads it: the scalars of YAML 1.2, a line for every value."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.yaml import MOST_NODES, parse


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2026-11-23", "2026-11-23"),
        ("1_000", "1_000"),
        ("<<", "<<"),
        ("=", "="),
        ("0b101", "0b101"),
        ("true", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nULL", "nULL"),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("-12", -12),
        ("+12", 12),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        (".INFx", ".INFx"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!int 0o17", 15),
        ("${NAME}", "${NAME}"),
        ("[${NAME}]", ["${NAME}"]),
        ("{a: ${file:a, b}, c: ${D:-[e]: #f}}", {"a": "${file:a, b}", "c": "${D:-[e]: #f}"}),
        ("a ${{ b }}", "a ${{ b }}"),
    ],
)
def test_scalars(scalar, value):
    document = parse(f"key: {scalar}".encode())
    assert not document.issues
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)


def test_not_a_number_is_a_number():
    assert math.isnan(parse(b".nan").value)


def test_keys_are_the_text_that_was_written():
    assert parse(b"NO: 1\n84700: 2\ntrue: 3\n~: 4").value == {
        "NO": 1,
        "84700": 2,
        "true": 3,
        "~": 4,
    }


def test_every_value_has_a_line():
    document = parse(b"# relay\nsinks:\n  a:\n    - x\n\n    - {b: 1,\n       c: 2}\n")
    assert document.line(("sinks",)) == 2
    assert document.line(("sinks", "a")) == 3
    assert document.line(("sinks", "a", 1)) == 6
    assert document.line(("sinks", "a", 1, "c")) == 7
    assert document.line(("sinks", "a", 1, "missing", 4)) == 6
    assert document.line(("nothing",)) == 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"a: 1\nb: 2\na: 3", 3, "is given twice, first in line 1"),
        (b"a: !vault x", 1, "begins with !, which makes it a tag"),
        (b"a: !!binary x", 1, "begins with !, which makes it a tag"),
        (b"a: !!python/name:os.system", 1, "begins with !, which makes it a tag"),
        (b"a:\n  ? [b]\n  : 1", 2, "a key should be text"),
        (b"a: &a\n  b: *a", 1, "is an alias of what it stands in"),
        (b"a: !!int x", 1, "is not a number that can be read"),
        (b"a: " + b"9" * 5000, 1, "is not a number that can be read"),
        (b"a: b: c", 1, "is not YAML: mapping values are not allowed here"),
        (b"a: 1\n\tb: 2", 2, "is not YAML: while scanning for the next token, found character"),
        (b"a: 1\n---\nb: 2", 2, "is not YAML: expected a single document"),
        (b"a: *nothing", 1, "is not YAML: what begins with * is an alias, and this one of"),
        (b"a: [1,\nb", 2, "is not YAML: while parsing a flow sequence"),
        (b"a: 1\nb: 'c\nd: 1\n", 2, "is not YAML: a quote begins here that does not end"),
        (b"a: 1\nb: \xff", 2, "is not UTF-8 text"),
        (b"a: 1\nb: \x07", 2, "has a character that YAML does not allow"),
        (b"[" * 5000, 1, "is nested too deeply"),
    ],
)
def test_mistakes(text, line, message):
    (mistake,) = parse(text).issues
    assert mistake.line == line
    assert mistake.message.startswith(message)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (b"a:\n\tb: 2", "indent with spaces, not with tabs"),
        (b"a: @b", "text that begins so wants quotes"),
        (b"a: b: c", "text with a colon and a space in it wants quotes"),
        (b"a:\n  b: 1\n c: 2", "is the line as far in as those that it belongs with?"),
        (b"a:\n  b: {{ c }} {{ d }}", "{{ … }} wants quotes around it"),
    ],
)
def test_what_mostly_is_behind_yamls_words_is_said(text, advice):
    (mistake,) = parse(text).issues
    assert mistake.message.endswith(advice)


@pytest.mark.parametrize("begin", ["*", "!", "!!", "!<", "&", "& a, &"])
def test_a_secret_is_not_named_for_what_it_begins_with(begin):
    """A generated one may well begin so, and what is wrong stands in the log."""
    text = f"tokens: [{begin.replace(' a', 'secret a')}secret{'>' * (begin == '!<')} a]"
    handle = "tokens: [!secret!x a]"
    told = [each.message for each in (*parse(text.encode()).issues, *parse(handle.encode()).issues)]
    assert told
    assert not any("secret" in each for each in told)


def test_all_mistakes_but_those_of_syntax_are_found_at_once():
    assert len(parse(b"a: 1\na: 2\nb: !x y\nc: {d: 1, d: 2}").issues) == 3


def test_a_bomb_of_aliases_is_a_mistake():
    """Nine lines that would be a thousand million items."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    mistakes = parse("\n".join(lines).encode()).issues
    assert [mistake.message for mistake in mistakes] == ["its aliases make it too large"]
    assert MOST_NODES < 10**6


def test_aliases_are_copies():
    assert parse(b"a: &a {b: 1}\nc: *a").value == {"a": {"b": 1}, "c": {"b": 1}}


@given(st.binary())
def test_no_bytes_raise(content):
    parse(content)


@given(st.text())
def test_no_text_raises(content):
    parse(content.encode())
