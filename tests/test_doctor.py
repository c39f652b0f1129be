"""The doctor: each thing that may be wrong is made wrong, and has to be named with its remedy."""

import asyncio
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest
from arrivals import NOW, arrival
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from olderstore import content, make_older

from relay import service
from relay.cli import main
from relay.config import loader
from relay.doctor import security, storage
from relay.spill.disk import DiskSpace
from relay.spill.file import SpillFile
from relay.spill.records import Spilled, encode
from relay.state_directory import StateDirectory
from relay.store.sqlite import SqliteStore

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
STRONG = "pW3kq0v9Zr2Lx7TnB5yHc8Md"
YAML = f"""
server: {{listen: 127.0.0.1:0}}
admin: {{listen: 127.0.0.1:0}}
store: data/relay.db
sources: {{sumotext: {{tokens: [{STRONG}]}}}}
sinks: {{archive: {{plugin: csv, options: {{path: data/events.csv}}}}}}
"""
NOW_S = NOW / 1e6


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with all as it should be, and a store with three events."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.yaml").write_text(YAML)
    (tmp_path / "relay.yaml").chmod(0o600)

    async def fill():
        store = await SqliteStore.open(tmp_path / "data/relay.db")
        for _ in range(3):
            await store.add(arrival(received=int(time.time() * 1e6)))
        await store.close()

    asyncio.run(fill())
    return tmp_path


def examined(*words, status=0, environment=None):
    """What the doctor finds, by (subject, level)."""
    runner = CliRunner(env=environment or {})
    result = runner.invoke(main, ["doctor", "--json", *words], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def levels(found):
    return {(each["subject"], each["level"]) for each in found}


def only(findings):
    (found,) = findings
    return found


OWN = "code in its place would stay and be run"


def exposed(config):
    """What there is on secrets, but that an ordinary user can change the relay's files."""
    found = list(security.exposed(config))
    as_root = os.geteuid() == 0
    assert as_root or any(OWN in each.text for each in found)
    others = [each for each in found if as_root or OWN not in each.text]
    return others or [SimpleNamespace(level="ok")]


def read(**changes):
    """The configuration in the current folder, with some of its parts replaced."""
    loaded = loader.load(Path("relay.yaml"), {}, fill=False)
    shown = {name: getattr(loaded, name) for name in loaded.__dataclass_fields__}
    return SimpleNamespace(**shown | changes)


def test_where_all_is_well_nothing_is_a_problem(here):
    before = content(here / "data/relay.db")
    found = examined()
    assert not [each for each in found if each["level"] == "problem"]
    for subject in ("configuration", "disk", "permissions", "sqlite", "schema"):
        assert (subject, "ok") in levels(found)
    own = "ok" if os.geteuid() == 0 else "warning"  # an ordinary user can change the relay's files
    assert ("secrets", own) in levels(found)
    for subject in ("store", "source sumotext", "spill", "sink archive"):
        assert (subject, "ok") in levels(found)
    assert all(bool(each["advice"]) == (each["level"] != "ok") for each in found)
    assert content(here / "data/relay.db") == before


def test_people_read_lines_with_what_to_do_below(here):
    (here / "data/relay.db").chmod(0o644)
    result = CliRunner().invoke(main, ["doctor", "--offline"])
    assert result.exit_code == 1
    assert "PROBLEM  permissions" in result.stdout
    assert f"→ chmod o= {here / 'data/relay.db'}" in result.stdout
    assert "\n1 problem, " in result.stdout
    assert "sink archive" not in result.stdout


def test_it_makes_no_store(here):
    shutil.rmtree(here / "data")
    assert ("store", "ok") in levels(examined())
    assert not (here / "data").exists()


def test_a_wrong_configuration_ends_with_78(here):
    (here / "relay.yaml").write_text(YAML.replace("csv", "cvs"))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 78
    assert "relay.yaml:6: sinks.archive.plugin" in result.stderr


def test_what_the_service_alone_knows_is_a_warning_and_its_sink_is_not_asked(here):
    (here / "relay.yaml").write_text(
        YAML.replace(STRONG, '"${TOKEN}"').replace("data/events.csv", "'${FOLDER}/events.csv'")
    )
    found = examined()
    expected = {("configuration", "warning"), ("source sumotext", "warning")}
    assert expected | {("sink archive", "warning")} <= levels(found)
    told = " ".join(each["text"] for each in found)
    assert "sources.sumotext.tokens[0]: ${TOKEN} is not set" in told
    assert "it was not asked, as ${FOLDER} is not set in the environment" in told
    known = examined(environment={"TOKEN": STRONG, "FOLDER": "data"})
    assert {("source sumotext", "ok"), ("sink archive", "ok")} <= levels(known)
    assert STRONG not in json.dumps(known)


def test_a_sink_that_would_fail_is_a_problem(here):
    (here / "relay.yaml").write_text(YAML.replace("data/events.csv", "/proc/no/events.csv"))
    found = examined(status=1)
    assert ("sink archive", "problem") in levels(found)
    assert ("sink archive", "problem") not in levels(examined("--offline"))


async def test_a_relay_that_runs_without_its_store_is_a_problem(here):
    (here / "data/relay.db").write_bytes(b"mine" * 1000)
    (here / "data/relay.db-wal").unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "relay.cli", "run"], stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    try:
        async with asyncio.timeout(30):
            while not StateDirectory.around(here / "data/relay.db").is_served():
                await asyncio.sleep(0.05)
        found = await asyncio.to_thread(examined, status=1)
    finally:
        process.terminate()
        process.communicate()
    told = {(each["subject"], each["level"]): each["text"] for each in found}
    assert "callbacks are taken" in told["service", "problem"]
    assert "not a database" in told["store", "problem"]


async def test_what_the_running_relay_says_of_its_sinks_is_told(here):
    async with service.started(loader.load(Path("relay.yaml"), {})):
        words = ["sinks", "pause", "archive"]
        await asyncio.to_thread(CliRunner().invoke, main, words)
        found = await asyncio.to_thread(examined, status=1)
    told = {(each["subject"], each["level"]): each["text"] for each in found}
    assert told["service", "ok"] == "the relay runs, and has 3 events"
    assert "paused by hand" in told["sink archive", "problem"]


@pytest.mark.parametrize(
    ("folder", "level", "text"),
    [("data", "ok", "it is well, says the relay"), ("/proc/no", "problem", "/proc")],
)
async def test_the_relay_is_asked_of_a_sink_whose_secrets_it_alone_knows(here, folder, level, text):
    (here / "relay.yaml").write_text(YAML.replace("data/events.csv", "'${FOLDER}/events.csv'"))
    async with service.started(loader.load(Path("relay.yaml"), {"FOLDER": folder})):
        found = await asyncio.to_thread(examined, status=int(level == "problem"))
    assert ("configuration", "warning") not in levels(found)
    told = [each for each in found if each["subject"] == "sink archive"][-1]
    assert told["level"] == level
    assert text in told["text"]


@pytest.mark.parametrize("folder", ["data", "${FOLDER}"])
async def test_a_notice_of_a_sink_is_a_warning(here, folder):
    """Whether the command asks the sink, or the relay that knows its secrets."""
    plugin = """
import relay
class Options(relay.Options):
    folder: str
class Slow(relay.Sink):
    Options = Options
    async def send(self, delivery): ...
    async def check(self):
        return [relay.Notice("an index would be faster")]
@relay.hookimpl
def register_sinks(register):
    register("slow", Slow)
"""
    (here / "plugins").mkdir()
    (here / "plugins" / "slow.py").write_text(plugin)
    archive = YAML.splitlines()[-1]
    slow = f"sinks: {{slow: {{plugin: slow, options: {{folder: '{folder}'}}}}}}"
    (here / "relay.yaml").write_text(YAML.replace(archive, slow))
    async with service.started(loader.load(Path("relay.yaml"), {"FOLDER": "data"})):
        found = await asyncio.to_thread(examined)
    told = [each for each in found if each["subject"] == "sink slow"]
    assert [each["level"] for each in told] == ["ok", "warning"]
    assert told[1]["text"] == "an index would be faster"


@pytest.mark.parametrize(("wrong", "named"), [("", True), ("typo: 1\n", False)])
def test_a_check_says_who_knows_the_secrets(here, wrong, named):
    (here / "relay.yaml").write_text(YAML.replace("data/events.csv", "'${FOLDER}/e.csv'") + wrong)
    result = CliRunner().invoke(main, ["check", "--online"])
    assert result.exit_code == 78
    assert ("`relay doctor` has the running relay check" in result.stderr) == named


async def test_a_sink_that_the_relay_does_not_have_yet_is_not_called_well(here):
    loaded = loader.load(Path("relay.yaml"), {})
    (here / "relay.yaml").write_text(
        YAML.replace(
            "archive: {plugin: csv, options: {path: data/events.csv}}",
            "new: {plugin: csv, options: {path: '${FOLDER}/events.csv'}}",
        )
    )
    async with service.started(loaded):
        found = await asyncio.to_thread(examined, status=1)
    told = {(each["subject"], each["level"]): each["text"] for each in found}
    assert "no sink new in relay.yaml" in told["sink new", "problem"]


# the store


def test_an_older_schema_is_a_warning_and_stays(here):
    (here / "data/relay.db").unlink()
    make_older(here / "data/relay.db")
    before = content(here / "data/relay.db")
    finding = next(storage.store(here / "data/relay.db", time.time()))
    assert finding.level == "warning"
    assert "schema 1, and gets" in finding.text
    assert "64." in finding.advice  # what the copy needs
    assert content(here / "data/relay.db") == before


def test_a_newer_schema_is_a_problem(here, monkeypatch):
    monkeypatch.setattr(storage, "migrations", list)
    finding = next(storage.store(here / "data/relay.db", time.time()))
    assert (finding.subject, finding.level) == ("schema", "problem")


@pytest.mark.parametrize("damage", ["page", "head"])
def test_a_damaged_store_is_a_problem(here, damage):
    path = here / "data/relay.db"
    data = bytearray(path.read_bytes())
    at = 4096 * 6 if damage == "page" else 0
    data[at : at + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    found = list(storage.store(path, time.time()))
    assert ("store", "problem") in {(each.subject, each.level) for each in found}
    assert any("restore a backup" in each.advice for each in found)


def test_signs_of_life_come_while_a_large_store_is_looked_through(here, monkeypatch):
    monkeypatch.setattr(storage, "STEPS", 100)
    signs = []
    list(storage.store(here / "data/relay.db", time.time(), lambda: signs.append(1)))
    assert len(signs) > 3


def test_a_log_that_has_grown_is_a_warning(here, monkeypatch):
    monkeypatch.setattr(storage, "LARGE_LOG", 1000)
    path = here / "data/relay.db"
    with closing(apsw.Connection(str(path))) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        writer.execute("DELETE FROM quarantine; UPDATE sinks SET cursor = cursor").fetchall()
        assert ("store", "warning") in {
            (each.subject, each.level) for each in storage.store(path, time.time())
        }


@pytest.mark.parametrize(
    ("times", "level", "text"),
    [
        ([], "ok", "it says 2027-01-15"),
        ([NOW_S - 5, NOW_S - 1], "ok", "it says"),
        ([NOW_S - 5, NOW_S + 30], "ok", "it says"),
        ([NOW_S - 5, NOW_S + 172800], "problem", "an event came in at 2027-01-17"),
        ([NOW_S - 9, NOW_S - 7200, NOW_S - 7100], "warning", "went back by 7191 seconds"),
    ],
)
def test_the_clock_is_held_against_the_times_of_the_events(times, level, text):
    found = only(storage.clock(times, NOW_S))
    assert found.level == level
    assert text in found.text


def test_the_times_are_those_of_the_store(here):
    with closing(apsw.Connection(str(here / "data/relay.db"))) as writer:
        writer.execute("UPDATE events SET received = received + 864000000000 WHERE seq = 2")
    found = list(storage.store(here / "data/relay.db", time.time()))
    assert ("clock", "problem") in {(each.subject, each.level) for each in found}


def test_an_old_sqlite_is_a_problem(monkeypatch):
    assert only(storage.library()).level == "ok"
    monkeypatch.setattr(storage, "OLDEST_SQLITE", 99_000_000)
    assert only(storage.library()).level == "problem"


# places


@pytest.mark.parametrize(
    ("free", "level", "text"),
    [
        (2**30, "ok", "has 1.0 GiB free"),
        (66 * 2**20, "warning", "too little for a copy"),
        (63 * 2**20, "problem", "callbacks are turned away"),
    ],
)
def test_too_little_room_is_told_before_it_is_none(here, monkeypatch, free, level, text):
    with (here / "data/relay.db").open("ab") as file:
        file.truncate(3 * 2**20)
    monkeypatch.setattr(DiskSpace, "of", lambda _: DiskSpace(total=2**40, free=free))
    found = list(storage.disks(read(), here / "data/relay.db"))
    assert (found[1].level, len(found)) == (level, 2)
    assert text in found[1].text


@pytest.mark.parametrize(
    ("kind", "level"), [("ext4", "ok"), (None, "ok"), ("nfs4", "problem"), ("tmpfs", "problem")]
)
def test_a_store_on_what_does_not_last_is_a_problem(here, monkeypatch, kind, level):
    monkeypatch.setattr(storage, "_file_system", lambda _: kind)
    assert next(storage.disks(read(), here / "data/relay.db")).level == level


def test_the_kernel_names_the_kind_of_a_disk():
    assert storage._file_system(Path("/proc")) == "proc"


def test_a_disk_with_no_room_for_names_is_a_problem(here, monkeypatch):
    monkeypatch.setattr(storage, "FEW_FILES", 2**62)
    found = list(storage.disks(read(), here / "data/relay.db"))
    assert "more files only" in found[-1].text


@pytest.mark.parametrize("name", ["relay.db", "relay.db.lock", "relay.db.before-schema-2", "."])
def test_files_that_others_can_read_are_a_problem(here, name):
    make_older(here / "data/relay.db.before-schema-2").chmod(0o600)
    assert only(storage.permissions(read(), here / "data/relay.db")).level == "ok"
    (here / "data" / name).chmod(0o757)
    found = only(storage.permissions(read(), here / "data/relay.db"))
    assert found.level == "problem"
    assert found.advice == f"chmod o= {here / 'data' / name}"


def test_files_of_another_owner_are_a_problem(here, monkeypatch):
    store = here / "data/relay.db"
    other = store.stat().st_uid + 1
    found = list(storage._closed(store, other))
    assert [each.level for each in found] == ["problem"]
    assert found[0].advice.startswith("chown ")


def test_callbacks_in_the_spill_are_told(here):
    settings = read()
    spill = SpillFile(settings.state.spill)
    callback = arrival().callback
    spill.append([encode(Spilled("1", callback)), encode(Spilled("2", callback))])
    spill.close()
    (here / "data/relay.db.spill.bad").write_bytes(b"?")
    (here / "data/relay.db.spill.damaged-2").write_bytes(b"?")
    found = list(storage.leftovers(settings.state, time.time()))
    assert [each.level for each in found] == ["warning", "problem", "problem"]
    assert "2 callbacks wait in" in found[0].text
    assert "relay.db.spill.damaged-2 could not be read" in found[2].text


def test_a_spill_that_cannot_be_read_is_a_problem(here):
    (here / "data/relay.db.spill").mkdir()
    found = list(storage.leftovers(read().state, time.time()))
    assert [each.level for each in found] == ["problem"]
    assert "relay.db.spill cannot be read" in found[0].text


def test_one_callback_in_the_spill_waits(here):
    settings = read()
    spill = SpillFile(settings.state.spill)
    spill.append([encode(Spilled("1", arrival().callback))])
    spill.close()
    (found,) = storage.leftovers(settings.state, time.time())
    assert "1 callback waits in" in found.text


def test_a_copy_that_has_done_its_duty_is_to_be_removed(here):
    copy = make_older(here / "data/relay.db.before-schema-2")
    now = copy.stat().st_mtime
    state = read().state
    assert [each.level for each in storage.leftovers(state, now + 86400)] == ["ok"]
    found = list(storage.leftovers(state, now + 31 * 86400))
    assert [each.level for each in found] == ["ok", "warning"]
    assert "31 days old" in found[1].text
    assert state.store_copies() == [copy]


def test_a_ballast_is_whole_and_there_while_the_relay_runs(here):
    settings = read()
    file = here / "data/relay.db.ballast"
    assert list(storage.ballast(settings, running=False)) == []
    assert only(storage.ballast(settings, running=True)).level == "warning"
    file.write_bytes(b"\0" * 8192)
    assert only(storage.ballast(settings, running=True)).level == "ok"
    with file.open("ab") as open_file:
        open_file.truncate(2**20)
    assert "holes" in only(storage.ballast(settings, running=True)).text


# access


@pytest.mark.parametrize(
    ("token", "level"),
    [
        ("secret", "problem"),
        ("sumotext2026", "problem"),
        ("a" * 200, "problem"),
        ("abababababababababababab", "problem"),
        ("k3v9x2q8w7zr", "problem"),
        ("Kx7Tn5yHc8Md2Lw9", "warning"),
        (STRONG, "ok"),
        ("5f1c9e0b7a3d2846c0e9f1b2a7d35c48", "ok"),
        ("${SUMOTEXT_TOKEN}", "warning"),
    ],
)
def test_tokens_are_weighed(here, token, level):
    (here / "relay.yaml").write_text(YAML.replace(STRONG, f'"{token}"'))
    found = only(security.sources(read()))
    assert found.level == level
    assert token.startswith("$") or token not in found.text


def test_the_command_that_makes_a_token_makes_a_strong_one():
    made = subprocess.run(
        ["sh", "-c", security.MAKE_ONE], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert security.bits(made) >= security.STRONG


def test_a_source_without_a_token_is_a_warning_unless_its_network_is_told(here):
    (here / "relay.yaml").write_text("sources: {sumotext: {}}")
    assert only(security.sources(read())).level == "warning"
    (here / "relay.yaml").write_text("sources: {sumotext: {allow_from: [203.0.113.0/24]}}")
    assert list(security.sources(read())) == []


def make_certificate(folder, begins, ends):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.example")])
    made = (
        x509.CertificateBuilder(name, name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime.fromtimestamp(begins, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(ends, dt.UTC))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "key.pem").chmod(0o600)
    return read(
        server=SimpleNamespace(
            tls=SimpleNamespace(cert=folder / "cert.pem", key=folder / "key.pem")
        )
    )


@pytest.mark.parametrize(
    ("begins", "ends", "level", "text"),
    [
        (-1, 90, "ok", "is good until 2027-04-15"),
        (-80, 10, "warning", "ends in 10 days"),
        (-90, -1, "problem", "ended on 2027-01-14"),
        (1, 90, "problem", "is not valid before 2027-01-16"),
    ],
)
def test_a_certificate_is_told_before_it_ends(here, begins, ends, level, text):
    settings = make_certificate(here, NOW_S + begins * 86400, NOW_S + ends * 86400)
    found = only(security.certificate(settings, NOW_S))
    assert (found.level, text in found.text) == (level, True), found


def test_a_certificate_without_its_chain_is_told(here):
    """The check does too, which starts no listener."""
    leaf, key, issuer = issued(here)
    settings = read(server=SimpleNamespace(tls=SimpleNamespace(cert=leaf, key=key)))
    good, bare = security.certificate(settings, NOW_S)
    assert (good.level, bare.level) == ("ok", "warning")
    assert "holds the certificate alone" in bare.text
    tls = f"server: {{listen: 127.0.0.1:0, tls: {{cert: {leaf.name}, key: {key.name}}}}}"
    (here / "relay.yaml").write_text(YAML.replace("server: {listen: 127.0.0.1:0}", tls))
    assert "server.tls.cert: " in CliRunner().invoke(main, ["check"]).stderr
    pem = leaf.read_bytes()
    leaf.write_bytes(pem.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE"))  # for OpenSSL alone
    assert CliRunner().invoke(main, ["check"]).exit_code == 0
    leaf.write_bytes(pem + issuer)
    assert only(security.certificate(settings, NOW_S)).level == "ok"
    assert "holds the certificate alone" not in CliRunner().invoke(main, ["check"]).stderr


def issued(folder):
    """A certificate that another has signed, its key, and the other's PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in ("a", "b")]
    begins, ends = (dt.datetime.fromtimestamp(NOW_S + each * 86400, dt.UTC) for each in (-1, 90))
    leaf, issuer = (
        x509.CertificateBuilder(names[1], subject, key.public_key(), 1, begins, ends)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        for subject in names
    )
    paths = folder / "leaf.pem", folder / "leaf.key"
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for path, pem in zip(paths, (leaf, secret), strict=True):
        path.write_bytes(pem)
        path.chmod(0o600)
    return *paths, issuer


def test_what_is_no_certificate_is_a_problem(here):
    settings = make_certificate(here, NOW_S, NOW_S + 86400)
    (here / "cert.pem").write_text("nothing")
    assert only(security.certificate(settings, NOW_S)).level == "problem"
    assert list(security.certificate(read(), NOW_S)) == []


def test_a_key_that_everybody_reads_is_a_problem(here):
    settings = make_certificate(here, NOW_S, NOW_S + 86400)
    assert only(exposed(settings)).level == "ok"
    (here / "key.pem").chmod(0o644)
    assert only(exposed(settings)).advice == f"chmod o= {here / 'key.pem'}"


@pytest.mark.parametrize(
    ("token", "mode", "expected"),
    [
        (STRONG, 0o600, ["ok"]),
        (STRONG, 0o644, ["warning"]),
        ('"${file:token}"', 0o644, ["ok"]),
        (STRONG, 0o646, ["problem", "warning"]),
    ],
)
def test_secrets_that_others_read_are_told(here, token, mode, expected):
    (here / "relay.yaml").write_text(YAML.replace(STRONG, token))
    (here / "relay.yaml").chmod(mode)
    found = list(exposed(read()))
    assert [each.level for each in found] == expected


def test_the_secrets_of_sinks_count_too(here):
    hook = "  hook: {plugin: webhook, options: {url: https://h.example/, auth: {bearer: secret}}}\n"
    without = (
        YAML.replace(STRONG, '"${TOKEN}"').replace("sinks: {", "sinks:\n  ").replace("}}}", "}}")
    )
    (here / "relay.yaml").write_text(without + hook)
    (here / "relay.yaml").chmod(0o644)
    assert only(exposed(read())).level == "warning"


def test_a_plugin_that_everybody_can_change_is_a_problem(here):
    (here / "plugins").mkdir()
    (here / "plugins/mine.py").write_text(
        "import relay\n\n\nclass Mine(relay.Sink):\n    async def send(self, delivery): ...\n\n\n"
        "@relay.hookimpl\ndef register_sinks(register):\n    register('mine', Mine)\n"
    )
    assert only(exposed(read())).level == "ok"
    (here / "plugins/mine.py").chmod(0o666)
    found = only(exposed(read()))
    assert (found.level, "mine.py, which" in found.text) == ("problem", True)
