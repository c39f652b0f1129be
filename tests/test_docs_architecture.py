"""docs/architecture.md names files that are there, and draws the service's states as they are."""

import re

from relay.service import TRANSITIONS


def test_every_linked_file_is_there(root):
    text = (root / "docs" / "architecture.md").read_text().replace("\\", "")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 15
    assert [each for each in links if not (root / "docs" / each).is_file()] == []


def test_every_named_module_is_there(root):
    text = (root / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`(relay/[a-z_/]+(?:\.py)?)`", text))
    assert named
    assert [each for each in named if not (root / each).exists()] == []


def test_the_states_of_the_service_are_the_codes(root):
    text = (root / "docs" / "architecture.md").read_text()
    diagram = text.partition("```mermaid\n")[2].partition("```")[0]
    drawn = set(re.findall(r"^    (\w+) --> (\w+)", diagram, re.MULTILINE))
    assert drawn == {
        (state.value, after.value) for state, others in TRANSITIONS.items() for after in others
    }
