"""Secrets: what keeps one from arriving as it is meant, and how hard it is to guess."""

import math
import string
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any

import pydantic
from pydantic import SecretStr

from relay.validation import PLACEHOLDER, new_rule

WEAK = 64
"""Bits below which a token is a mistake where other machines reach the relay."""
QUOTES = "\"'“”‘’"
ALPHABETS = (string.ascii_lowercase, string.ascii_uppercase, string.digits)
EMPTY = "is empty; is a variable or a file empty that it is filled in from?"
UNSEEN = "holds a line break, a tab or a character that cannot be seen; write it again"
PADDED = "begins or ends with a space; take that away"
SPACED = "holds a space, and no such secret does"
QUOTED = "begins or ends with a quotation mark, which is not part of it; take that away"
NO_PEM = "should be a private key in PEM, with its line breaks: -----BEGIN PRIVATE KEY-----"


def password_flaw(text: str) -> str | None:
    """What is wrong with a password, which a person may have chosen; None where nothing is."""
    if not text.strip():
        return EMPTY
    if not text.isprintable():
        return UNSEEN
    return PADDED if text != text.strip() else None


def key_flaw(text: str) -> str | None:
    """What is wrong with a token or a key, which a machine has made; None where nothing is."""
    if flaw := password_flaw(text):
        return flaw
    if " " in text:
        return SPACED
    return QUOTED if text[0] in QUOTES or text[-1] in QUOTES else None


def pem_flaw(text: str) -> str | None:
    """What is wrong with a private key in PEM; None where it looks like one."""
    if not text.strip():
        return EMPTY
    return None if text.lstrip().startswith("-----BEGIN") and "\\n" not in text else NO_PEM


def _without(flaw: Callable[[str], str | None]) -> Any:
    """Metadata of a pydantic type: a value with such a flaw is a mistake by a new rule."""

    def check(value: Any, info: pydantic.ValidationInfo) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not PLACEHOLDER.search(text) and (found := flaw(text)):
            new_rule(info, found)
        return value

    return pydantic.AfterValidator(check)


AS_KEY = _without(key_flaw)
"""Marks a type of option as a token or key: it has no spaces and no quotation marks."""
AS_PASSWORD = _without(password_flaw)
"""Marks a type of option as a password: it may have spaces inside."""
AS_PEM = _without(pem_flaw)
Key = Annotated[SecretStr, AS_KEY]
"""An option that is a token or key. Logs never show it."""
Password = Annotated[SecretStr, AS_PASSWORD]
"""An option that is a password. Logs never show it."""
PrivateKey = Annotated[SecretStr, AS_PEM]
"""An option that is a private key in PEM form. Logs never show it."""
Login = Annotated[str, AS_PASSWORD]
"""A user name, or the id of an app: no secret, and sent along with one."""


def bits(token: str) -> int:
    """How hard a token is to guess, at best: by its length and by what it is made of."""
    letters = set(token)
    alphabet = sum(len(each) for each in ALPHABETS if letters & set(each))
    others = len(letters - set("".join(ALPHABETS)))
    # Few letters, or few pairs of them, again and again are a pattern.
    size = min(alphabet + others, 2 * len(letters))
    length = min(len(token), 2 * len(set(pairwise(token))))
    return int(length * math.log2(size)) if size > 1 else 0
