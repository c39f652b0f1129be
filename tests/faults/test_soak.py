"""The soak in short, and that it sees what grows; `make soak` runs it for an hour."""

import pytest
from soak import HOUR, MOST, a_sink_in_trouble, a_stop, report, slopes, soak_for


@pytest.mark.timeout(180)
async def test_a_short_soak_loses_nothing(tmp_path):
    faults = {a_sink_in_trouble: 2, a_stop: 1}
    soak = await soak_for(
        tmp_path,
        8.0,
        seed=1,
        first=(),
        faults=faults,
        rest=0.5,
        most_wait=60.0,
        enough=lambda soak: soak.fired.total() > 2 and len(soak.senders.acked) > 400,
    )
    report(soak, 8.0)
    assert soak.fired.total() > 2
    assert len(soak.senders.acked) > 400


def grows(lives: int, an_hour: float):
    """Samples of so many lives of a minute, each of which begins at its own level."""
    return [
        [(second, dict.fromkeys(MOST, life % 7 + second * an_hour / HOUR)) for second in range(60)]
        for life in range(lives)
    ]


@pytest.mark.parametrize("slope", [0.0, 30.0, -5.0])
def test_the_slope_is_the_same_over_all_lives(slope):
    assert slopes(grows(10, slope)) == pytest.approx(dict.fromkeys(MOST, slope))


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_minutes_of_faults_lose_nothing_and_nothing_grows(tmp_path):
    assert not report(await soak_for(tmp_path, 150.0, seed=2), 150.0)


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_what_a_sink_leaks_is_seen(tmp_path):
    faults = {a_sink_in_trouble: 2, a_stop: 1}
    assert report(await soak_for(tmp_path, 30.0, seed=2, leak=True, first=(), faults=faults), 30.0)
