"""The texts that a template can give, as far as they stand in it."""

import pytest

from relay.templating.expressions import Compiler


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("17", {"17"}),
        (" {{ 17 }} ", {"17"}),
        ("{{ data.keyword }}", set()),
        ("1{{ data.keyword }}", set()),
        ("{{ 17 if data.keyword == '84700' else '18' }}", {"17", "18"}),
        ("{{ {'JOIN': 17, 'VIP': '18'}[data.keyword] }}", {"17", "18"}),
        ("{{ {'JOIN': 17}.get(data.keyword, 18) }}", {"17", "18"}),
        ("{{ {'JOIN': 17}[data.keyword] | default('18') }}", {"17", "18"}),
        ("{{ {'JOIN': 17}[data.keyword] or '18' }}", {"17", "18"}),
        ("{% if data.keyword == 'A' %}17{% elif data.reply %} 18 {% else %}19{% endif %}", None),
        ("{{ none }}", set()),
        ("{{ '17' | replace('7', '8') }}", set()),
    ],
)
def test_what_a_template_can_give(text, given):
    expected = {"17", "18", "19"} if given is None else given
    assert Compiler().template(text).choices == expected
