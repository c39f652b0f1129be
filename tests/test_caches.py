"""What is cached by what senders write has a bound in number and in size."""

import ast
import tracemalloc
from functools import lru_cache

import pytest
from hubspotsink import module as hubspot
from salesforcesink import errors as salesforce
from sumotextsource import source

from relay.caching import LONGEST_KEY, short_key, short_keys
from relay.crm import LruKeys
from relay.event import RawCallback
from relay.phone import national
from relay.senders import client_key

CACHES = {
    "plugins/csv/writer.py": "by the sink's place; its files are bounded there",
    "relay/caching.py": "short keys; this is how the others get theirs",
    "relay/config/schema.py": "a file of an `Options` class, which is ours or a plugin's",
    "relay/counters.py": "a source, a type and an outcome, which are ours",
    "relay/crm.py": "50,000 short keys",
    "plugins/sumotext.py": "short keys",
    "relay/phone.py": "short keys; numbers of at most 64 characters; countries; six digits",
    "relay/delivery/http.py": "64 URLs, which httpx refuses above 64 KiB; time-outs; nothing",
    "relay/delivery/plugin_calls.py": "a sink and a method of it",
    "relay/redact.py": "no key",
    "relay/event.py": "16 seconds",
    "relay/version.py": "no key",
    "relay/store/sqlite/rows.py": "no key but the columns of a query of ours",
    "relay/rate_limit.py": "SENDERS addresses, as `client_key` has them",
    "relay/senders.py": "short keys",
    "relay/server/access.py": "short keys",
}
"""Where something is cached, and what bounds its keys. A new one has to say so here."""
MAKERS = {"cache", "lru_cache", "short_keys", "OrderedDict", "WeakKeyDictionary"}
CALLBACKS = 50
LONG = 240_000
MEBIBYTE = 2**20


def makers(path):
    """The cache makers that a module calls or decorates with."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node, "id", None) or getattr(node, "attr", None)
        if name in MAKERS and isinstance(node, ast.Name | ast.Attribute):
            yield name


def test_every_cache_is_known_with_what_bounds_its_keys(root):
    found = {
        str(path.relative_to(root))
        for folder in ("relay", "plugins")
        for path in (root / folder).rglob("*.py")
        if "builtin" not in path.parts and any(makers(path))
    }
    assert found == set(CACHES)


def test_a_long_key_is_not_kept():
    calls = []
    function = short_keys(maxsize=8)(lambda text: calls.append(text) or len(text))
    for text in ("x" * LONGEST_KEY, "x" * (LONGEST_KEY + 1)):
        assert [function(text), function(text)] == [len(text)] * 2
    assert [len(text) for text in calls] == [LONGEST_KEY, LONGEST_KEY + 1, LONGEST_KEY + 1]


def test_the_key_of_a_long_text_is_short_and_its_own():
    texts = ["", "a", "a" * LONGEST_KEY, "a" * 100_000, "a" * 99_999 + "b", "\ud800" * 100]
    keys = [short_key(text) for text in texts]
    assert len(set(keys)) == len(texts)
    assert keys[:3] == texts[:3]
    assert max(map(len, keys)) <= LONGEST_KEY


def growth(function, texts):
    """Bytes that are still taken after the function has had all of these texts."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for text in texts:
            function(text)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def texts():
    return (f"+{number}x".ljust(LONG, "1") for number in range(CALLBACKS))


def country(text):
    callback = RawCallback(
        "sumotext",
        "POST",
        b"mobile=2125551212&key=K&carrierId=X&country=" + text.encode(),
        "",
        b"",
        0,
    )
    return READER.parse(callback)


READER = source()


def refused_by_salesforce(text):
    salesforce.ApiError(400, "X", f"no: {text}", ()).told([text])


def refused_by_hubspot(text):
    hubspot("errors").hidden(f"no: {text}", [text])


def known_to_crm(text):
    KNOWN_KEYS.add(text, "1")


KNOWN_KEYS = LruKeys(fold=str.casefold)
FUNCTIONS = [
    *(country, national, client_key, refused_by_salesforce, refused_by_hubspot),
    known_to_crm,
]


def test_a_long_key_is_known_all_the_same():
    for text in texts():
        assert text not in KNOWN_KEYS
        known_to_crm(text)
        assert text.upper() in KNOWN_KEYS
        assert KNOWN_KEYS.get(text) == "1"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_long_texts_of_senders_are_not_kept(function):
    assert growth(function, texts()) < MEBIBYTE


def test_a_cache_without_that_bound_would_keep_them():
    """The control: what the damage is."""
    assert growth(lru_cache(maxsize=4096)(lambda _: None), texts()) > CALLBACKS * LONG
