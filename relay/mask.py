"""Numbers of contacts as people may see them: the last four digits."""

import re
from ipaddress import ip_address
from typing import Any

from relay.helpers import national

SHOWN = 4
SEPARATORS = r"[\s().\-]*"
# Seven digits are the shortest number of anybody; that a date is masked with them does no harm.
E164 = re.compile(r"\+[1-9]\d{6,14}(?!\d)")
LONG = re.compile(r"\+?\d(?:[\s().\-]{0,2}\d){6,}")


def mask(number: str) -> str:
    """`+12125551212` as `…1212`."""
    return "…" + number[-SHOWN:]


def mask_all(text: str) -> str:
    """The text with whatever may be a number masked; for words that others chose."""
    return LONG.sub(lambda found: found[0] if _is_ip(found[0]) else mask(found[0]), text)


def mask_e164(text: str) -> str:
    """The text with the numbers masked that stand in it as events have them; ids stay whole."""
    return E164.sub(lambda found: mask(found[0]), text)


def mask_in(value: Any, number: str) -> Any:
    """`value`, and all that is in it, with this E.164 number masked however it is written."""
    spellings = (SEPARATORS.join(digits) for digits in (number[1:], national(number) or number))
    return _replaced(value, re.compile(rf"\+?(?:{'|'.join(spellings)})"), mask(number))


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _replaced(value: Any, pattern: re.Pattern[str], by: str) -> Any:
    match value:
        case str():
            return pattern.sub(by, value)
        case dict():
            return {key: _replaced(item, pattern, by) for key, item in value.items()}
        case list() | tuple():
            return [_replaced(item, pattern, by) for item in value]
        case int() if pattern.fullmatch(str(value)):
            return by
        case _:
            return value
