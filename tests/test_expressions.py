"""Expressions and templates over an event: `when`, `map`, and templates in options."""

import dataclasses
from datetime import UTC
from zoneinfo import ZoneInfo

import orjson
import pydantic
import pytest

from relay.event import Event
from relay.templating.expressions import (
    Compiler,
    EvaluationError,
    ExpressionError,
    RecordMap,
    Template,
)

FIELDS = {
    "Name": " Mary  Jane Watson ",
    "DOB": "1/2/2000",
    "Zip": "10024",
    "Empty": "",
    "items": "seven",
    "Two": ["first", "second"],
    "Phone": "(212) 555-1212",
    "first name": "Bill",
}
EVENT = Event(
    id="0190a000-0000-7000-8000-000000000000",
    source="/callbacks/sumotext",
    type="com.sumotext.web_form",
    subject="84700/JOIN",
    time="2026-11-23T04:34:00.123456Z",
    data={
        "mobile": "+12125551212",
        "country": "US",
        "short_code": "84700",
        "keyword": "JOIN",
        "carrier": None,
        "message": "hello",
        "message_id": None,
        "reply": None,
        "label": None,
        "consent": None,
        "fields": FIELDS,
        "parameters": [["Zip", "10024"]],
    },
)
ABSENT = object()


@pytest.fixture
def environment():
    return Compiler(ZoneInfo("America/New_York"))


def value_of(environment, template, **more):
    """What a map with this one template gives; ABSENT where the key is left out."""
    return environment.mapping({"key": template}).record(EVENT, **more).get("key", ABSENT)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("type == 'com.sumotext.web_form' and data.keyword in ['JOIN', 'VIP']", True),
        ("data.keyword == 'VIP'", False),
        ("data.consent is none", True),
        ("not data.label", True),
        ("data.fields.Nothing", False),
        ("data.fields.Nothing.at.all", False),
        ("data.fields.Nothing == 'x'", False),
        ("data.fields.items == 'seven'", True),
        ("data.fields['items'] == 'seven'", True),
        ("data.fields['first name'] == 'Bill'", True),
        ("data.fields.values", False),
        ("'seven' in data.fields.values()", True),
        ("data.keyword | lower == 'join'", True),
        ("data.short_code ~ data.label == '84700'", True),
        ("time | date('iso', '%H') | int == 23", True),
        ("test", False),
        ("subject.startswith('84700/')", True),
        ("true", True),
        ("  false\n", False),
    ],
)
def test_conditions(environment, text, matches):
    assert environment.condition(text).matches(EVENT) is matches


def test_conditions_know_the_opt_out(environment):
    condition = environment.condition("opted_out")
    assert condition.uses_opted_out
    assert condition.matches(EVENT, opted_out=True)
    assert not condition.matches(EVENT)
    assert not environment.condition("test").uses_opted_out


@pytest.mark.parametrize(
    ("template", "value"),
    [
        # One expression keeps its type, and text is never guessed from.
        ("{{ data.fields.Zip }}", "10024"),
        ("{{- data.fields.Zip -}}", "10024"),
        (" {{ data.fields.Zip }}\n", "10024"),
        ("{{ data.fields.Zip | int }}", 10024),
        ("{{ 'true' }}", "true"),
        ("{{ test }}", False),
        ("{{ 1 + 1 }}", 2),
        ("{{ 1.5 }}", 1.5),
        ("{{ data.fields.Two }}", ["first", "second"]),
        ("{{ data.parameters }}", [["Zip", "10024"]]),
        ("{{ {'a': data.label, 'b': data.fields.no} }}", {"a": None}),
        ("{{ (1, data.fields.no, 2) }}", [1, 2]),
        ("{{ data.fields.Two | map('upper') }}", ["FIRST", "SECOND"]),
        ("{{ data.fields.keys() | first }}", "Name"),
        ("{{ '<b>' | escape }}", "&lt;b&gt;"),
        # Text around it makes it text.
        ("{{ data.fields.Zip }} NY", "10024 NY"),
        ("{{ 1 }}{{ 2 }}", "12"),
        ("Hello {{ data.label }}{{ data.fields.no }}!", "Hello !"),
        ("{# nothing #}x", "x"),
        ("{% if test %}a{% else %}b{% endif %}", "b"),
        ("{% for f in data.fields.Two %}{{ loop.index }}{{ f }} {% endfor %}", "1first 2second "),
        ("{% set x = data.keyword %}{{ x }}/{{ x }}", "JOIN/JOIN"),
        # Undefined and null leave the key out.
        ("{{ data.label }}", ABSENT),
        ("{{ data.fields.no }}", ABSENT),
        ("{{ nothing_at_all }}", ABSENT),
        ("{{ data.fields.get }}", ABSENT),
        ("{{ data.label | upper }}", ABSENT),
        ("{{ data.fields.no | trim }}", ABSENT),
        ("{{ data.fields.no | replace('a', 'b') }}", ABSENT),
        ("{{ data.fields.no | int }}", ABSENT),
        ("{{ data.fields.no | urlencode }}", ABSENT),
        ("{{ data.fields.no[:3] }}", ABSENT),
        ("{{ 'gold' if test }}", ABSENT),
        ("{% if test %}gold{% endif %}", ABSENT),
        ("{{ data.label }}{{ data.fields.no }}", ABSENT),
        # Unless something else is asked for.
        ("{{ data.label | default('none') }}", "none"),
        ("{{ data.fields.no | default('none') }}", "none"),
        ("{{ data.fields.Empty | d('none', true) }}", "none"),
        ("{{ data.fields.no | int(0) }}", 0),
        ("{{ data.fields.Empty }}", ""),
        # What is no template stays as it stands.
        ("plain", "plain"),
        ("", ""),
        (None, None),
        (84700, 84700),
        (True, True),
        ({"a": {"b": "{{ data.keyword }}", "c": "{{ data.label }}"}}, {"a": {"b": "JOIN"}}),
        (["{{ data.label }}", "x", None, "{{ 1 }}"], ["x", None, 1]),
    ],
)
def test_map_values(environment, template, value):
    found = value_of(environment, template)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ data.fields.Phone | digits }}", "2125551212"),
        ("{{ data.short_code | int | digits }}", "84700"),
        ("{{ data.fields.Name | digits }}", ABSENT),
        ("{{ data.mobile | national }}", "2125551212"),
        ("{{ '+442071838750' | national }}", "2071838750"),
        ("{{ '+' | national }}", ABSENT),
        ("{{ data.fields.Phone | national }}", "2125551212"),
        ("{{ data.fields.Name | first_name }}", "Mary"),
        ("{{ data.fields.Name | last_name }}", "Jane Watson"),
        ("{{ 'Bill' | first_name }}", "Bill"),
        ("{{ 'Bill' | last_name }}", ABSENT),
        ("{{ 'Doe,  Jane Q.' | first_name }}", "Jane Q."),
        ("{{ 'Doe,  Jane Q.' | last_name }}", "Doe"),
        ("{{ ', Jane' | last_name }}", ABSENT),
        ("{{ 'Doe,' | first_name }}", ABSENT),
        ("{{ data.fields.Two | first_name }}", "first"),
        ("{{ [] | digits }}", ABSENT),
        ("{{ data.fields.DOB | date('%m/%d/%Y', '%Y-%m-%d') }}", "2000-01-02"),
        ("{{ data.fields.DOB | date('%m/%d/%Y', 'iso') }}", "2000-01-02T00:00:00"),
        ("{{ time | date('iso', '%Y-%m-%d %H:%M') }}", "2026-11-22 23:34"),
        ("{{ time | date('iso', 'iso') }}", "2026-11-22T23:34:00.123456-05:00"),
        ("{{ time | date('iso', '%s %%s %-s') }}", "1795408440 %s 1795408440"),
        ("{{ data.fields.DOB | date('%m/%d/%Y', '%s') }}", "946789200"),
        ("{{ data.fields.Empty | date('%Y', '%y') }}", ABSENT),
        ("{{ data.label | date('%Y', '%y') }}", ABSENT),
        ("{{ data.fields.no | first_name | default('friend') }}", "friend"),
    ],
)
def test_helpers(environment, template, value):
    assert value_of(environment, template) == value


def test_a_record_is_json_and_its_own(environment):
    """A sink may change its record; the event stays as it is."""
    record = environment.mapping({"fields": "{{ data.fields }}", "all": "{{ data }}"}).record(EVENT)
    orjson.dumps(record)
    record["fields"]["Two"].append("third")
    assert FIELDS["Two"] == ["first", "second"]


def test_columns_are_the_keys_in_their_order(environment):
    mapping = environment.mapping({"b": "{{ id }}", "a": None})
    assert mapping.columns == ("b", "a")
    assert not mapping.uses_opted_out
    assert environment.mapping({"a": {"b": ["{{ opted_out }}"]}}).uses_opted_out


def test_constants_are_the_values_that_no_event_changes(environment):
    values = {
        "text": "Web",
        "null": None,
        "number": 7,
        "list": ["Golf", "Chess"],
        "template": "{{ data.mobile }}",
        "mixed": ["Golf", "{{ id }}"],
        "nested": {"Key__c": "x"},
    }
    made = environment.mapping(values)
    assert made.constants == {name: values[name] for name in ("text", "null", "number", "list")}
    record = made.record(EVENT)
    assert made.constants.items() <= record.items()
    record["list"].append("Tennis")
    assert made.record(EVENT)["list"] == ["Golf", "Chess"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type =", "does not compile: there is more after the expression: '='"),
        ("type == ", "does not compile: unexpected 'end of template'"),
        ("{{ test }}", "should be an expression alone, without {{ }} or {% %}"),
        ("test }} {{ test", "does not compile: there is more after the expression: '}}'"),
        ("tpye == 1", 'there is no variable "tpye"; did you mean "type"?'),
        ("keyword == 1", 'there is no variable "keyword"; did you mean "data.keyword"?'),
        ("data.keywrd", 'there is no "data.keywrd"; did you mean "data.keyword"?'),
        ("id | digts", 'does not compile: there is no filter "digts"; did you mean "digits"?'),
        ("id | xyzzy", 'does not compile: there is no filter "xyzzy"'),
        ("id is nune", 'does not compile: there is no test "nune"; did you mean "none"?'),
        ("(" * 300 + "1" + ")" * 300, "does not compile: RecursionError"),
    ],
)
def test_conditions_that_do_not_compile(environment, text, message):
    with pytest.raises(ExpressionError) as caught:
        environment.condition(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "tag", ["include 'x'", "extends 'x'", "macro x()", "import 'x' as x", "autoescape true"]
)
def test_templates_have_no_loader_and_no_macros(environment, tag):
    end = {"m": "{% endmacro %}", "a": "{% endautoescape %}"}.get(tag[0], "")
    with pytest.raises(ExpressionError, match="is not available here"):
        environment.template(f"{{% {tag} %}}{end}")


def test_all_that_is_wrong_in_a_map_is_told_at_its_place(environment):
    with pytest.raises(ExpressionError) as caught:
        environment.mapping({"a": "{{ x | y }}", "b": {"c": ["ok", "{{"]}, "d": "{{ id }}"})
    assert [location for location, _ in caught.value.errors] == [("a",), ("b", "c", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "it divides by zero"),
        ("data.fields.no > 3", "it calls or compares something that is undefined or null"),
        ("data.fields[data.mobile]()", "it calls or compares something that is undefined or null"),
        ("data.mobile | date('%Y', '%Y')", "its value is not a date of the form '%Y'"),
        ("data.mobile | date('%', '%Y')", "its value is not a date of the form '%'"),
        ("data.mobile | date('%Y')", "it gives a filter or function other arguments than it takes"),
        ("('1' * 300) | date('%Y', '%Y')", "its date, or a format of it, is too long"),
        ("'1' | date('%Y' * 300, '%Y')", "its date, or a format of it, is too long"),
        ("'x' * 10 ** 9", "it does what a template may not do, or makes something too large"),
        (
            "10 ** 10 ** 10 ** 10",
            "it does what a template may not do, or makes something too large",
        ),
        ("[id] * 20000", "it does what a template may not do, or makes something too large"),
        (
            "range(10 ** 9) | list",
            "it does what a template may not do, or makes something too large",
        ),
        ("data.fields.update({})", "it calls or compares something that is undefined or null"),
        (
            "data.fields.Two.append(1)",
            "it does what a template may not do, or makes something too large",
        ),
        (
            "id.__class__.__mro__()",
            "it does what a template may not do, or makes something too large",
        ),
    ],
)
def test_evaluation_errors_hold_no_value(environment, text, message):
    with pytest.raises(EvaluationError) as caught:
        environment.condition(text).matches(EVENT)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "met", "cure"),
    [
        ("data.mobile | int + 'x'", "a number with a text", "`|int` or `|float` makes"),
        ("data.mobile > 3", "a text with a number", "`|int` or `|float` makes"),
        ("data.label > 3", "null with a number", "`|default('', true)` gives"),
        ("'x' in data.label", "null", "`|default('', true)` gives"),
        ("data.fields.Two + 1", "a list with a number", "`|first` takes"),
        ("data.fields > 1", "a mapping with a number", "name one item"),
    ],
)
def test_a_type_that_does_not_fit_is_named_with_the_cure(environment, text, met, cure):
    with pytest.raises(EvaluationError) as caught:
        environment.condition(text).matches(EVENT)
    assert str(caught.value).startswith(f"it cannot use {met} in this way ({cure} ")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "key: it divides by zero"),
        ({"a": ["x {{ 1 / 0 }}"]}, "key: a: it divides by zero"),
        ("{{ 2 ** 100 }}", "key: its number is too large"),
        ("{{ ['x'] | map('nothing') }}", "key: it raises TemplateRuntimeError"),
        ("{{ range }}", "key: it gives a function, which JSON does not have"),
        (
            "{% for i in range(10000) %}{{ 'x' * 9999 }}{% endfor %}",
            "key: its text is longer than a million characters",
        ),
        ("{{ 'x' | center(2000000) }}", "key: its text is longer than a million characters"),
    ],
)
def test_map_errors_name_the_key(environment, template, message):
    with pytest.raises(EvaluationError) as caught:
        value_of(environment, template)
    assert str(caught.value) == message


def test_a_template_is_a_field_type():
    class Options(pydantic.BaseModel):
        path: Template

    options = Options.model_validate(
        {"path": "{{ time | date('iso', '%d') }}/{{ data.label }}{{ data.keyword }}.csv"},
        context={"environment": Compiler(UTC)},
    )
    assert options.path.render(EVENT) == "23/JOIN.csv"
    assert Options.model_validate(options).path is options.path
    assert Options.model_json_schema()["properties"]["path"]["type"] == "string"
    with pytest.raises(pydantic.ValidationError, match="does not compile"):
        Options.model_validate({"path": "{{"})
    with pytest.raises(pydantic.ValidationError, match="should be text"):
        Options.model_validate({"path": 1})


class Activity(pydantic.BaseModel):
    """Options with a `map` of their own."""

    map: RecordMap


def test_a_mapping_is_a_field_type():
    activity = Activity.model_validate(
        {"map": {"Day": "{{ time | date('iso', '%d') }}", "Raw": ["{{ data.label }}", None]}},
        context={"environment": Compiler(UTC)},
    )
    assert activity.map.record(EVENT) == {"Day": "23", "Raw": [None]}
    assert activity.map.columns == ("Day", "Raw")
    assert Activity(map=activity.map).map is activity.map
    assert Activity.model_json_schema()["properties"]["map"]["type"] == "object"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{{", "does not compile"),
        ({"in": ["ok", "{{"]}, r"in\[1\]: does not compile"),
        ("{{ opted_out }}", "`opted_out` is known to the sink's own `when` and `map` alone"),
    ],
)
def test_a_mistake_in_a_field_is_told_at_its_key(value, message):
    with pytest.raises(pydantic.ValidationError, match=message) as caught:
        Activity.model_validate({"map": {"Good": "{{ id }}", "Bad": value}})
    assert [each["loc"] for each in caught.value.errors()] == [("map", "Bad")]


def test_a_mapping_should_be_one():
    with pytest.raises(pydantic.ValidationError, match="valid dictionary"):
        Activity.model_validate({"map": "{{ id }}"})


# blank values


BLANK_MAP = {
    "Zip": "{{ data.fields.Zip }}",
    "Name": " {{ data.fields.First }} {{ data.fields.Last }} ",
    "Tags": "{{ data.fields.Tags }}",
    "Note": "",
    "Gone": None,
}


@pytest.mark.parametrize(
    ("blank", "fields", "expected"),
    [
        ("keep", {"Zip": "", "Tags": ["", "a"]}, {"Zip": "", "Name": "   ", "Tags": ["", "a"]}),
        ("omit", {"Zip": " \u00a0\t", "Tags": ["", "a"]}, {"Tags": ["a"]}),
        ("omit", {"Zip": "\u200b", "Tags": ["", " "]}, {}),
        ("omit", {"Zip": "0", "First": "Mary"}, {"Zip": "0", "Name": " Mary  "}),
        ("clear", {"Zip": "", "Tags": [" "]}, {"Zip": None, "Tags": None}),
        ("clear", {}, {}),
    ],
)
def test_a_blank_value_is_kept_left_out_or_null(blank, fields, expected):
    event = dataclasses.replace(EVENT, data={**EVENT.data, "fields": fields})
    made = Compiler().mapping(BLANK_MAP, blank=blank).record(event)
    assert made == {**expected, "Note": "", "Gone": None}
