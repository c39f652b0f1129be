"""Placeholders: filled in after the YAML is parsed, inside text values only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.interpolate import fill

ENVIRON = {"NAME": "value", "EMPTY": "", "TRICKY": "a: ${NAME} # {{ x }}"}


@pytest.fixture
def folder(tmp_path):
    """A folder with a secret and systemd's credentials in it."""
    (tmp_path / "secret").write_text("s3cret\r\n")
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfs3cret\r\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/crm").write_text("pass\nword\n")
    (tmp_path / "credentials/marked").write_bytes(b"\xef\xbb\xbfs3cret\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${NAME}", "value"),
        ("a ${NAME} b ${NAME}", "a value b value"),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${UNSET:-other}", "other"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:-b c}", "a:-b c"),
        ("${NAME:-other}", "value"),
        ("${TRICKY}", "a: ${NAME} # {{ x }}"),
        ("$${NAME}", "${NAME}"),
        ("${{ data.price }}", "${{ data.price }}"),
        ("$NAME costs $5", "$NAME costs $5"),
        ("${file:secret}", "s3cret"),
        ("${file:marked}", "s3cret"),
        ("${credential:marked}", "s3cret"),
        ("${credential:crm}", "pass\nword"),
    ],
)
def test_placeholders(text, filled, folder):
    environ = {**ENVIRON, "CREDENTIALS_DIRECTORY": str(folder / "credentials")}
    result = fill({"key": [text]}, environ, folder)
    assert not result.issues
    assert result.value == {"key": [filled]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${UNSET}", "${UNSET} is not set in the environment"),
        ("${file:gone}", "${file:gone} cannot be read: No such file or directory"),
        ("${file:}", "${file:} cannot be read: Is a directory"),
        ("${file:binary}", "${file:binary} cannot be read: it is not UTF-8 text"),
        (
            "${credential:crm}",
            "${credential:crm} cannot be read: systemd has set no $CREDENTIALS_DIRECTORY here",
        ),
        ("${credential:../secret}", "${credential:../secret} is not the name of a credential"),
        (
            "${NO NAME}",
            "${NO NAME} is none of ${NAME}, ${NAME:-default}, ${file:PATH} or ${credential:NAME}",
        ),
        (
            "${}",
            "${} is none of ${NAME}, ${NAME:-default}, ${file:PATH} or ${credential:NAME}",
        ),
    ],
)
def test_what_cannot_be_filled_in_stays_with_a_mistake(text, message, folder):
    result = fill({"key": text}, ENVIRON, folder)
    assert result.value == {"key": text}
    assert [(each.location, each.message) for each in result.issues] == [(("key",), message)]


def test_a_credential_that_was_not_given(folder):
    result = fill("${credential:hubspot}", {"CREDENTIALS_DIRECTORY": str(folder)}, folder)
    assert result.issues[0].message.endswith("cannot be read: No such file or directory")


def test_a_credential_of_a_folder_is_called_after_the_unit_too(folder):
    environ = {"CREDENTIALS_DIRECTORY": str(folder / "credentials")}
    (folder / "credentials/relay_hubspot").write_text("key")
    (folder / "credentials/relay_crm").write_text("another")
    text = "${credential:hubspot} ${credential:relay_hubspot} ${credential:crm}"
    assert fill(text, environ, folder).value == "key key pass\nword"


def test_an_absolute_file(folder):
    assert fill(f"${{file:{folder}/secret}}", {}, folder / "elsewhere").value == "s3cret"


def test_keys_and_other_values_are_left_alone(folder):
    values = {"${NAME}": [1, None, True, 1.5]}
    assert fill(values, ENVIRON, folder).value == values


def test_filled_in_texts_are_known_as_secrets_but_defaults_are_not(folder):
    values = {"a": "${NAME}", "b": ["${UNSET:-default}", "${NAME:-default}"]}
    assert fill(values, ENVIRON, folder).secrets == {("a",): ["value"], ("b", 1): ["value"]}


@given(st.text(), st.text(st.characters(exclude_characters="$"), min_size=0))
def test_a_value_arrives_as_it_is(tmp_path_factory, value, around):
    """Whatever the environment holds is put in once, and never looked at again."""
    result = fill(f"{around}${{NAME}}{around}", {"NAME": value}, tmp_path_factory.getbasetemp())
    assert result.value == f"{around}{value}{around}"


@given(st.text(st.characters(exclude_characters="$")))
def test_a_text_without_a_dollar_stays(tmp_path_factory, text):
    assert fill(text, {}, tmp_path_factory.getbasetemp()).value == text
