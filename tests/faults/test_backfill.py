"""150,000 people get their keys by `relay setup --backfill-keys`: the calls, and the memory."""

import asyncio
import contextlib
import os
import re
import sys
import time
from pathlib import Path

import pytest
import yaml
from relaying import SETTINGS
from relays import ROOT
from stubs.hubspot import HubSpotStub
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

PEOPLE = 150_000
MOST_MEMORY = 150 * 2**20
"""Bytes that are resident at the most."""


def hubspot():
    stub = HubSpotStub()
    stub.burst_most = 1_000_000
    for number in range(PEOPLE):
        stub.seed("contacts", {"lastname": "Doe", "mobilephone": mobile(number)})
    return stub, {"base_url": ..., "token": "pat-na1-stub"}


def salesforce():
    stub = SalesforceStub()
    for number in range(PEOPLE):
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": mobile(number)})
    return stub, {"login_url": ..., "client_id": "id", "client_secret": "secret"}


def mobile(number):
    return f"(212) 2{number:06}"


def keys(stub):
    """The key of each person."""
    if isinstance(stub, SalesforceStub):
        return [row.get("SMS_Key__c") for row in stub.records("Contact")]
    return [each.get("sms_key") for each in stub.records("contacts")]


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("make", "calls"), [(salesforce, 827), (hubspot, 3004)])
async def test_150_000_people_get_their_keys_in_little_memory(tmp_path, make, calls):
    """2,000 people or 100 are a call to read, and 200 or 100 a call to write."""
    stub, options = make()
    async with serving(stub.app) as url:
        path = tmp_path / "relay.yaml"
        sink = {
            "plugin": make.__name__,
            "options": {name: url if value is ... else value for name, value in options.items()},
            "map": {"LastName": "x"} if make is salesforce else {"lastname": "x"},
            "allow_private": ["127.0.0.0/8"],
        }
        path.write_text(yaml.safe_dump(SETTINGS | {"sinks": {"crm": sink}}))
        begun = time.monotonic()
        command = ["-m", "relay.cli", "setup", "crm", "--backfill-keys", "--config", str(path)]
        printed, peak = await run(*command)
    seconds = time.monotonic() - begun
    print(f"\n{make.__name__}: {len(stub.calls)} calls, {peak / 2**20:.0f} MiB, {seconds:.0f} s")
    print(printed)
    assert f"{PEOPLE} people" in printed.replace(",", "")
    assert sorted(keys(stub)) == [f"12122{number:06}" for number in range(PEOPLE)]
    assert len(stub.calls) <= calls
    assert peak <= MOST_MEMORY


async def run(*command):
    """What a command of the relay says, and the most bytes of memory that it had."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, *command],
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    watch = asyncio.create_task(peak_memory(process))
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode(), await watch


async def peak_memory(process):
    """By the process's own account: the kernel's, at its end, includes who started it."""
    peak = 0
    status = Path(f"/proc/{process.pid}/status")
    while process.returncode is None:
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            peak = int(found[1]) * 1024 if found else peak
        await asyncio.sleep(0.05)
    return peak
