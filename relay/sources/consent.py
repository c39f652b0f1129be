"""Consent: the words by which a contact opts out of messages, or in again."""

import re
import unicodedata

OPT_OUT = "opt_out"
OPT_IN = "opt_in"

_WORDS = {
    **dict.fromkeys(
        ("stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout"), OPT_OUT
    ),
    **dict.fromkeys(("start", "unstop"), OPT_IN),
}
_BESIDE_WORDS = re.compile(r"[\W_]+")
LONGEST = 1600
"""Characters of a message that may be one of the words: no text message has more.

The time that normalisation takes grows with the square of a run of combining marks.
"""


def consent(message: str) -> str | None:
    """What a message that is nothing but one of the words says.

    Case, spaces and punctuation do not count, nor does the width of the letters.
    """
    message = message.strip()
    if len(message) > LONGEST:
        return None
    word = _BESIDE_WORDS.sub("", unicodedata.normalize("NFKC", message))
    return _WORDS.get(word.casefold())
