"""What stores, delivers and shows events reads no vendor's names: the event has attributes.

The names of Sumotext's data stand where its source reads them, where they are public (a template,
a column), and where they name something else.
"""

import ast
import re

import pytest

NAMES = ("mobile", "consent", "message_id", "keyword")
SPOKEN = re.compile(rf"com\.sumotext\.|\bdata\.({'|'.join(NAMES)})\b")

SOURCE = ("relay/sources/", "plugins/sumotext", "relay/callback/mentions.py")
"""What reads Sumotext's callbacks. An erasure looks for the number in those nobody can read."""

COLUMN = "the name of a column in the database or in a file, which is kept for good"
OPTION = "the name of an option, a command or a field of an outcome"
API = "a public name of the API: the contact"
PUBLIC = "a template over the public event: what Sumotext's events have is the default"
SAMPLE = "an event of Sumotext as a sample, over which an option's template is rendered"
KEY = "{{ data.mobile | digits }}"
SUBJECT = (
    "SMS {{ type | replace('com.sumotext.', '') | replace('_', ' ') }}"
    "{% if data.keyword %}: {{ data.keyword }}{% endif %}"
    "{% if data.consent %} ({{ data.consent | replace('_', '-') }}){% endif %}"
)

EXCEPTIONS = {
    ("relay/event.py", "it takes the attributes from the data of Sumotext's events"): (
        *NAMES,
        "com.sumotext.",
        "$.data.consent",
    ),
    ("relay/crm.py", SAMPLE): (
        *("mobile", "keyword", "message_id"),
        *("com.sumotext.message", "com.sumotext.poll"),
    ),
    ("relay/api/events.py", API): ("mobile",),
    ("relay/api/maintenance.py", API): ("mobile",),
    ("relay/api/quarantine.py", API): ("mobile",),
    ("relay/cli/__init__.py", OPTION): ("consent",),
    ("relay/cli/configure.py", OPTION): ("consent",),
    ("relay/cli/events.py", API): ("mobile",),
    ("relay/cli/maintenance.py", COLUMN): ("mobile",),
    ("relay/cli/quarantine.py", API): ("mobile",),
    ("relay/cli/trial.py", OPTION): ("mobile",),
    ("relay/config/sinks.py", OPTION): ("consent",),
    ("relay/delivery/classify.py", OPTION): ("consent",),
    ("relay/store/sqlite/erase.py", COLUMN): ("keyword", "message_id"),
    ("relay/store/sqlite/schema/0002-upkeep.sql", "of a release with no other vendor"): (
        "data.consent",
    ),
    ("relay/templating/lint.py", "the names that a template is checked against"): NAMES,
    ("plugins/csv/erase.py", COLUMN): ("mobile",),
    ("plugins/csv/rows.py", COLUMN): NAMES,
    ("plugins/hubspot/options.py", PUBLIC): (KEY,),
    ("plugins/hubspot/setup.py", OPTION): ("consent",),
    ("plugins/salesforce/contacts.py", SAMPLE): ("mobile",),
    ("plugins/salesforce/options.py", PUBLIC): (KEY, SUBJECT),
    ("plugins/salesforce/setup.py", OPTION): ("consent",),
}
"""The texts with such a name that a file may have, and why."""


def texts(path):
    """The texts of a file that are no docstrings."""
    if path.suffix == ".sql":
        yield from (match[0] for match in SPOKEN.finditer(path.read_text(encoding="utf-8")))
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    spoken = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # a docstring, or one behind a name
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in spoken:
            text = node.value
            yield text.decode("latin-1") if isinstance(text, bytes) else str(text)


def found(root):
    """The texts with a vendor's name, by file."""
    places: dict[str, set[str]] = {}
    for folder in ("relay", "plugins"):
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix not in (".py", ".sql") or name.startswith((*SOURCE, "relay/builtin")):
                continue
            for text in texts(path):
                if text in NAMES or SPOKEN.search(text):
                    places.setdefault(name, set()).add(text)
    return places


def test_no_vendors_names_are_read(root):
    assert found(root) == {name: set(given) for (name, _), given in EXCEPTIONS.items()}


@pytest.mark.parametrize("name", ["store", "spill", "delivery", "alerts", "monitoring", "server"])
def test_what_stores_and_delivers_names_no_attribute_of_the_data(root, name):
    """Not by another way either: `event.data` is read by templates, sinks and the commands."""
    for path in (root / "relay" / name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (
                isinstance(node, ast.Attribute)
                and node.attr == "data"
                and ast.unparse(node.value).endswith("event")
            ), f"{path}:{node.lineno}"
