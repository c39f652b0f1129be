"""What a template costs has a bound, whatever a sender's text is: a format, a width, a count."""

import pytest
from processortime import share

from relay.event import Event
from relay.templating.expressions import Compiler, EvaluationError
from relay.templating.limits import MOST_STEPS

pytestmark = pytest.mark.alone

LARGEST = 250_000
MOST = 1.5
"""As a share of the library's form of 256 KiB; usual is a quarter of that."""
LONG = "key: its text is longer than a million characters"
TOO_MUCH = "key: it goes through too much text, or too many items"
REFUSED = "key: it does what a template may not do, or makes something too large"
TEXTS = {
    "words": "ab ",
    "one word": "a",
    "tags": "<a>",
    "open tags": "<",
    "hosts": "a.com ",
    "lines": "\n",
    "tabs": "\t",
    "digits": "1",
    "formats": "%s",
    "marks": "\u0301",
}
ON_ANY_TEXT = [
    *("capitalize", "center(w)", "escape", "forceescape", "format(1)", "indent", "indent(w)"),
    *("lower", "replace('a', x)", "replace('', x)", "striptags", "title", "trim", "trim(x)"),
    *("truncate(w)", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "wordwrap(1)"),
    *("wordwrap(w)", "wordwrap(9, true, x)", "tojson", "pprint", "reverse", "list", "length"),
    *("map('upper') | list", "select('string') | list", "reject('in', x) | list", "sort", "unique"),
    *("groupby(0)", "batch(3) | list", "batch(w, 'x') | list", "slice(3) | list", "min", "max"),
    *("slice(w) | list", "join(x)", "first", "last", "int", "float", "int(0, 16)", "string"),
    *("digits", "national", "first_name", "last_name", "date('%d', '%Y')", "date(x, '%Y')"),
    *("date('iso', x)", "filesizeformat", "default(x)", "e | striptags"),
]
OTHERS = [
    *("text ~ text", "text % 5", "('%' ~ w ~ 'd') % 5", "'%*d' % (w, 5)", "'%.*f' % (w, 5)"),
    *("'%(a)s' % {'a': x}", "(text ~ '%s') % x", "('{:' ~ w ~ '}').format(5)"),
    *("'{:{}}'.format(5, w)", "text.format(x)", "text.format_map({'a': x})"),
    *("text.center(w)", "text.ljust(w)", "text.zfill(w)", "text.replace('a', x)"),
    *("text.strip(x)", "x.join(text)", "text.expandtabs(w)", "w.to_bytes(w, 'big')"),
    *("text.translate({97: x})", "text.encode('punycode')", "text.encode(x)", "text.split()"),
    *("text.splitlines()", "text in x", "text.count('aa')", "text.title()", "text.casefold()"),
    *("(x | int) ** w", "(x | int) * (x | int)", "text * w", "[text] * w", "range(w) | list"),
    *("1.5 | round(w, 'ceil')", "{'a': text} | tojson(w)", "range(9999) | map('string') | join"),
    *("range(9999) | join(x)", "range(9999) | map('replace', '', x) | join", "text[::-1]"),
    *("{'a': text, 'b': [x]} | urlize", "[x, [text]] | wordwrap", "[x] | title"),
    *("[[text]] | sum(start=[])", "text.encode().hex()", "text.encode().center(w)"),
]
LOOPS = [
    "{% for a in text %}{% endfor %}",
    "{% for a in text %}{% for b in text %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{% if text.upper() == a %}{% endif %}{% endfor %}",
    "{% for a in range(9999) %}{% if a ~ 'z' in text %}{% endif %}{% endfor %}",
    "{% for a in range(9999) %}{% if text is in x %}{% endif %}{% endfor %}",
    "{% for a in range(9999) if text ~ x == a %}{% endfor %}",
    "{% for a in range(9999) %}{% set b = text + x %}{% endfor %}",
    "{% for a in range(9999) %}{% set b = text[1:] %}{% endfor %}",
    "{% set all %}{% for a in range(9999) %}{{ text }}{% endfor %}{% endset %}",
    "{% for a in text recursive %}{{ loop(text) }}{% endfor %}",
    "{% for a in text %}{{ loop.length }}{% for b in text %}{% endfor %}{% endfor %}",
]

ALL = "&".join(f"n{number}=v" for number in range(999))


def event(text, fields):
    return Event(
        "1", "s", "t", None, "2026-11-23T04:34:00.123456Z", {"message": text, "fields": fields}
    )


def evaluation(template, text):
    """Prepare a map with this template; the call gives what it makes, or its error."""
    names = {"text": "data.message", "x": "data.fields.x", "w": "(data.fields.w | int)"}
    for name, stands_for in names.items():
        template = f"{{% set {name} = {stands_for} %}}" + template
    mapping = Compiler().mapping({"key": template})
    made = event((text * LARGEST)[:LARGEST], {"x": "x" * LARGEST, "w": "1000000000"})

    def evaluate():
        try:
            return mapping.record(made).get("key", "")
        except EvaluationError as error:
            return error

    return evaluate


def costs(template, text):
    return share(evaluation(template, text), MOST)


@pytest.mark.parametrize("template", ON_ANY_TEXT)
def test_a_filter_costs_little_on_any_text(template):
    slow = {name: costs(f"{{{{ text | {template} }}}}", text) for name, text in TEXTS.items()}
    assert max(slow.values()) < MOST, slow


@pytest.mark.parametrize("template", [f"{{{{ {each} }}}}" for each in OTHERS] + LOOPS)
@pytest.mark.parametrize("text", ["a", "\t", "%(a)s", "{a}", "{"])
def test_an_expression_or_a_loop_costs_little(template, text):
    assert costs(template, text) < MOST


@pytest.mark.parametrize(
    ("template", "text", "message"),
    [
        ("{{ '%1000000d%d' % (1, 2) }}", "", LONG),
        ("{{ '%1000000000d' % 5 }}", "", REFUSED),
        ("{{ text % {'a': x} }}", "%(a)s", TOO_MUCH),
        ("{{ text.format(x) }}", "{0}", TOO_MUCH),
        ("{{ ('{0}' * 9).format(x) }}", "", LONG),
        ("{{ text | replace('a', x) }}", "a", LONG),
        ("{{ text | wordwrap(1) }}", "a", TOO_MUCH),
        ("{{ text.encode(x) | string }}", "a", REFUSED),
        ("{{ text.encode('punycode') | string }}", "a", REFUSED),
        ("{% for a in text %}{% for b in text %}{% endfor %}{% endfor %}", "a", TOO_MUCH),
        ("{% for a in text recursive %}{{ loop(text[1:]) }}{% endfor %}", "ab" * 9, TOO_MUCH),
    ],
)
def test_the_error_says_which_bound_it_is(template, text, message):
    outcome = evaluation(template, text)()
    assert str(outcome) == message


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ '%5.1f|%-4s|%%|%(x)s' | format(x=1) }}", None),
        ("{{ '%5.1f|%-4s|%%' % (1.25, 'a') }}", "  1.2|a   |%"),
        ("{{ '50% off: 2125551212 %s' }}", "50% off: 2125551212 %s"),
        ("{{ '2125551212: {} {:>2} {:{w}}'.format(1, 2, 3, w=3) }}", "2125551212: 1  2   3"),
        ("{{ '{a}'.format_map({'a': 1}) }}", "1"),
        ("{{ ['a', 'b'] | join(', ') }}", "a, b"),
        ("{{ data.parameters | map('join', '=') | join('&') }}", ALL),
        ("{% for n, v in data.parameters %}{{ loop.last }}{% endfor %}", "False" * 998 + "True"),
        ("{% for n, v in data.parameters if n == 'n7' %}{{ n ~ v }}{% endfor %}", "n7v"),
        ("{% for a in [[1, [[2]]]] recursive %}{{ a[0] }}{{ loop(a[1]) }}{% endfor %}", "12"),
        ("{{ 'a-b'.split('-') | join }}{{ 'x'.center(3) }}", "ab x "),
        ("{{ 'é'.encode('UTF-8').decode('utf_8') }}", "é"),
        ("{{ 2.345 | round(2) }} {{ [3, 1] | sort | first }} {{ [1, 2] | sum }}", "2.35 1 3"),
        ("{{ 'the quick fox' | wordwrap(9) }}", "the quick\nfox"),
        ("{{ 7 % 4 }}{{ 'ab' if 'a' in 'ab' }}", "3ab"),
    ],
)  # fmt: skip
def test_what_people_write_works(template, value):
    """A thousand parameters, which is as many as a callback may have, are no reason to fail."""
    made = event("hello", {"x": "y"})
    made.data["parameters"] = [[f"n{number}", "v"] for number in range(999)]
    mapping = Compiler().mapping({"key": template})
    if value is None:
        with pytest.raises(EvaluationError):
            mapping.record(made)
    else:
        assert mapping.record(made)["key"] == value


def test_the_templates_of_a_record_share_their_steps():
    half = f"{{% for a in range({MOST_STEPS // 4}) %}}{{% endfor %}}"
    few = Compiler().mapping(dict.fromkeys("ab", half))
    many = Compiler().mapping(dict.fromkeys("abcdefgh", half))
    assert few.record(event("", {})) == {}
    with pytest.raises(EvaluationError, match="goes through too much"):
        many.record(event("", {}))
