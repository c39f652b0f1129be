"""What docs/operations.md says of a store that cannot be written: settings, names, figures."""

import re
from pathlib import Path

import pytest

from relay import health
from relay.config.loader import load
from relay.monitoring.metrics import FACTS
from relay.spill import failover
from relay.spill.disk import KEPT_DIVISOR, RESERVE_DIVISOR
from relay.spill.file import SpillFile

TEXT = (Path(__file__).parent.parent / "docs/operations.md").read_text()
SECTION = TEXT.partition("\n## When the store cannot be written\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS)
def test_each_setting_is_one(tmp_path, text):
    path = tmp_path / "relay.yaml"
    path.write_text(text)
    load(path, {})


def test_the_places_and_figures_are_those_of_the_code(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text("{}")
    config = load(path, {})
    assert len(BLOCKS) == 2
    assert f"store_reserve: {config.store_reserve // 2**20}MiB" in SECTION
    assert f"{config.store_reserve // KEPT_DIVISOR // 2**20} MiB, lies in" in SECTION
    assert (RESERVE_DIVISOR, KEPT_DIVISOR) == (16, 4)
    assert "a sixteenth of itself" in SECTION
    assert "stops at a quarter" in SECTION
    spill = SpillFile(config.state.spill)
    for file in (spill.path, config.state.ballast):
        assert f"`{file.relative_to(tmp_path)}`" in SECTION
    assert f"`{spill.rejected.name}`" in SECTION
    assert (health.TRY_AGAIN, failover.TRY_AGAIN, failover.UNAUTHORIZED_KEPT) == (5, 1, 1000)
    assert "every five seconds" in SECTION
    assert "tried every second" in SECTION
    assert "no more than 1,000" in SECTION
    assert "relay_spill_records" in FACTS
