"""A replay that is broken off says how far it got: what goes as new twice is doubled."""

import click
import pytest

from relay.cli.events import _replayed
from relay.cli.output import progress

BEHIND = "2027-01-15T08:00:00.000001Z"
CHUNK = {"made": 100, "skipped": 0, "errors": [], "first": 1, "next": 100, "through": 300}


class Session:
    """Answers once; then the relay has stopped, or the person who asked has had enough."""

    def __init__(self, error):
        self._answers = [{**CHUNK, "behind": BEHIND}, error]

    async def post(self, _path, **_asked):
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.mark.parametrize("error", [click.ClickException("it stopped"), KeyboardInterrupt()])
@pytest.mark.parametrize("as_new", [True, False])
async def test_a_replay_that_is_broken_off_says_how_far_it_got(capsys, error, as_new):
    asked = {"sink": "crm", "as_new": as_new, "dry_run": False}
    with progress(None, "replaying") as bar, pytest.raises(type(error)):
        await _replayed(Session(error), asked, bar, as_json=False)
    said = capsys.readouterr().err
    assert f"100 events on the way, of those before {BEHIND}" in said
    assert (f"--since {BEHIND}" in said) == as_new
