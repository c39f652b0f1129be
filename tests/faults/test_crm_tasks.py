"""Tasks in Salesforce in a storm: one for each event, completed, of its person."""

import random

import pytest
from crmstorm import storming
from crmvendors import KeylessTasks, SalesforceTasks

LOST = ("drop_after_commit", "503_after_commit")
SMALL = {"batch": {"size": 10}}
CONSENT = {"field": "SMS_Opt_Out__c"}
HARD = {"consent": CONSENT, "match": ["key", "phone"]}
"""Consent is written alone, and people are found by their number."""


def seeded(vendor, contacts):
    """Every second person is there already, without a key."""
    for contact in range(0, contacts, 2):
        vendor.seed(f"(212) 555-{contact:04}")
    return vendor


@pytest.mark.timeout(240)
async def test_after_a_storm_each_event_is_a_task_once(tmp_path):
    vendor = seeded(SalesforceTasks(seed=4), 40)
    async with storming(tmp_path, vendor, seed=4, settings=SMALL, **HARD) as storm:
        await storm.rage(events=200, contacts=40, kills=2, revoke=False, patience=100)
        verdict = await storm.verdict()
    print(verdict)
    verdict.sound()
    assert vendor.open() == []
    assert storm.kills == 2
    assert all(vendor.fired[fault] for fault in LOST)


@pytest.mark.timeout(240)
async def test_without_the_external_id_tasks_are_there_twice(tmp_path):
    """The control: the same org, where an upsert of a task finds no task."""
    vendor = seeded(KeylessTasks(seed=4), 40)
    async with storming(tmp_path, vendor, seed=4, settings=SMALL, **HARD) as storm:
        await storm.rage(events=200, contacts=40, kills=2, revoke=False, patience=100)
        verdict = await storm.verdict()
    print(verdict)
    assert verdict.faults["activities twice"]
    assert verdict.faults["contacts twice"] == []


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_after_a_long_storm_each_event_is_a_task_once(tmp_path):
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    vendor = seeded(SalesforceTasks(share=0.15, seed=seed), 5_000)
    settings = {"batch": {"size": 50}}
    async with storming(tmp_path, vendor, seed=seed, settings=settings, **HARD) as storm:
        await storm.rage(events=20_000, contacts=5_000, kills=8, patience=1500)
        verdict = await storm.verdict()
    print(verdict)
    verdict.sound()
    assert vendor.open() == []
