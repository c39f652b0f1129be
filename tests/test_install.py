"""The installation as a service: what is planned, what is written, what is left alone."""

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from relay.cli import main
from relay.config import loader
from relay.install import (
    COMMAND,
    CONFIG,
    CREDENTIALS,
    LINKS,
    OURS,
    SERVICE,
    SOCKET,
    TOKEN,
    NotInstallable,
    beneath,
    check_program,
    plan,
)
from relay.install_image import Image

PROGRAM = Path("/opt/relay/bin/relay")


def command(*words, status=0, **more):
    result = CliRunner().invoke(main, ["service", *words], catch_exceptions=False, **more)
    assert result.exit_code == status, result.output
    return result.output


def install(root, *words, program=PROGRAM, **more):
    return command("install", "--root", root, "--program", program, *(words or ["--yes"]), **more)


def uninstall(root, *words, **more):
    return command("uninstall", "--root", root, *(words or ["--yes"]), **more)


def read(root, path):
    return beneath(root, path).read_text()


def everything(root):
    """Each path with what is there: a mode, and a text or a target."""
    found = {}
    for path in root.rglob("*"):
        content = path.readlink() if path.is_symlink() else path.is_file() and path.read_text()
        found[path.relative_to(root)] = (path.lstat().st_mode, content)
    return found


def setting(unit, key):
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


# installing


def test_a_plan_is_shown_and_nothing_is_done_before_the_answer(tmp_path):
    for words, status in ((["--dry-run"], 0), ([], 1)):
        shown = command(
            "install",
            "--root",
            tmp_path,
            "--program",
            PROGRAM,
            *words,
            status=status,
            input="n\n",
        )
        for path in (CONFIG, TOKEN, SERVICE, SOCKET, COMMAND):
            assert f"make   {path} " in shown
        assert everything(tmp_path) == {}


def test_the_units_run_this_relay_and_start_with_the_machine(tmp_path):
    install(tmp_path)
    service = read(tmp_path, SERVICE)
    assert setting(service, "ExecStart") == [f"{PROGRAM} run --config {CONFIG}"]
    assert setting(read(tmp_path, SOCKET), "ListenStream") == ["127.0.0.1:8080"]
    for link, unit in LINKS.items():
        assert beneath(tmp_path, link).readlink() == unit
    assert setting(service, "LoadCredential") == [f"relay:{CREDENTIALS}"]


def test_the_settings_load_with_a_token_that_only_root_can_read(tmp_path):
    said = install(tmp_path)
    token = read(tmp_path, TOKEN).strip()
    assert len(token) == 32
    assert token not in said + read(tmp_path, CONFIG)
    modes = {path: stat.S_IMODE(beneath(tmp_path, path).stat().st_mode) for path in (TOKEN, CONFIG)}
    assert modes == {TOKEN: 0o600, CONFIG: 0o640}
    assert stat.S_IMODE(beneath(tmp_path, CREDENTIALS).stat().st_mode) == 0o700
    environ = {"CREDENTIALS_DIRECTORY": str(beneath(tmp_path, CREDENTIALS))}
    settings = loader.load(beneath(tmp_path, CONFIG), environ)
    (secret,) = settings.sources["sumotext"].tokens
    assert secret.get_secret_value() == token


def test_two_installations_have_different_tokens(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        install(tmp_path / name)
    assert read(tmp_path / "a", TOKEN) != read(tmp_path / "b", TOKEN)


def test_to_install_again_changes_nothing(tmp_path):
    install(tmp_path)
    before = everything(tmp_path)
    assert not re.search("^(make|change) ", install(tmp_path), re.MULTILINE)
    assert everything(tmp_path) == before


def test_settings_of_the_operator_stay_and_the_socket_follows_them(tmp_path):
    beneath(tmp_path, CONFIG).parent.mkdir(parents=True)
    beneath(tmp_path, CONFIG).write_text("server: {listen: '${HOST:-localhost}:9000'}\n")
    install(tmp_path)
    assert read(tmp_path, CONFIG) == "server: {listen: '${HOST:-localhost}:9000'}\n"
    assert not beneath(tmp_path, TOKEN).exists()
    assert setting(read(tmp_path, SOCKET), "ListenStream") == ["127.0.0.1:9000"]
    beneath(tmp_path, CONFIG).write_text("server: {listen: '[::]:443'}\n")
    said = install(tmp_path)
    assert f"change {SOCKET}" in " ".join(said.split())
    assert setting(read(tmp_path, SOCKET), "ListenStream") == ["[::]:443"]


def test_an_address_that_systemd_cannot_hold_is_refused(tmp_path):
    beneath(tmp_path, CONFIG).parent.mkdir(parents=True)
    beneath(tmp_path, CONFIG).write_text("server: {listen: 'relay.example.com:80'}\n")
    assert "server.listen" in install(tmp_path, status=1)
    beneath(tmp_path, CONFIG).write_text("server: {listen: '127.0.0.1:80'\n")
    assert "relay.yaml:2" in install(tmp_path, status=78)


def test_what_is_not_ours_under_the_name_of_the_command_is_left_alone(tmp_path):
    beneath(tmp_path, COMMAND).parent.mkdir(parents=True)
    beneath(tmp_path, COMMAND).write_bytes(b"\xff another program")
    assert str(COMMAND) not in install(tmp_path)
    assert str(COMMAND) not in uninstall(tmp_path)
    assert beneath(tmp_path, COMMAND).read_bytes() == b"\xff another program"


def test_a_relay_at_the_place_of_the_command_is_not_replaced_by_what_calls_it(tmp_path):
    assert COMMAND not in [piece.path for piece in plan(tmp_path, COMMAND, {})]


def test_the_command_has_the_settings_and_the_secrets_of_the_service(tmp_path):
    shows = tmp_path / "shows"
    shows.write_text('#!/bin/sh\necho "$RELAY_CONFIG $CREDENTIALS_DIRECTORY $@"\n')
    shows.chmod(0o755)
    root = tmp_path / "root"
    root.mkdir()
    (piece,) = (each for each in plan(root, shows, {}) if each.path == COMMAND)
    piece.put(root)
    assert OURS in piece.text
    said = subprocess.run(
        [beneath(root, COMMAND), "status", "a b"],
        env={"PATH": os.defpath, "CREDENTIALS_DIRECTORY": "/elsewhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"{CONFIG} /elsewhere status a b\n"


@pytest.mark.parametrize("place", ["/root/relay", "/home/anna/relay", "/tmp/relay", "/var/tmp/r"])
def test_a_relay_that_the_service_would_not_see_is_refused(tmp_path, place):
    said = install(tmp_path, program=Path(place, "bin/relay"), status=1)
    assert f"would not see {place}/bin/relay" in said
    assert "--program /opt/relay/bin/relay" in said
    with pytest.raises(NotInstallable, match=place):
        check_program(PROGRAM, [Path(place, "python")])


def test_a_relay_in_a_folder_that_is_closed_to_others_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.install.HIDDEN", ())
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(NotInstallable, match="may not enter"):
        check_program(tmp_path / "closed/bin/relay", [])


def test_only_root_may_install_on_this_machine(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = command("install", "--program", PROGRAM, "--yes", status=1)
    assert "sudo" in said


# an image whose links lead out of it

LEADING_OUT = ("etc/systemd", "etc/sysusers.d", "etc/relay", "usr/local/bin", "var/lib/relay")


@pytest.fixture
def outside(tmp_path):
    """Files that are not the image's, one for each that an installation writes or removes."""
    outside = tmp_path / "outside"
    for name in ("relay.service", "relay.socket", "relay.conf", "relay", "relay.yaml", "relay.db"):
        outside.mkdir(exist_ok=True)
        (outside / name).write_text(f"{OURS}: not of the image")
    for name in ("system", "credentials", "plugins"):
        (outside / name).mkdir()
    return outside


@pytest.fixture
def image(tmp_path):
    image = tmp_path / "image"
    image.mkdir()
    return image


def lead_out(image, outside, *, absolute):
    """Have folders of the image be links to those outside."""
    for place in LEADING_OUT:
        link = image / place
        link.parent.mkdir(parents=True, exist_ok=True)
        up = os.path.relpath(outside, link.parent.resolve())
        link.symlink_to(outside if absolute else up)


@pytest.mark.parametrize("absolute", [True, False])
def test_an_installation_leaves_no_image_by_a_link(image, outside, absolute):
    lead_out(image, outside, absolute=absolute)
    before = everything(outside)
    install(image)
    assert everything(outside) == before
    assert read_in(image, SERVICE).startswith(b"# Sumotext Relay as a service")
    uninstall(image, "--purge", "--yes")
    assert everything(outside) == before


def test_nor_where_the_file_is_a_link(image, outside):
    for path in (SERVICE, CONFIG, TOKEN, COMMAND):
        beneath(image, path).parent.mkdir(parents=True, exist_ok=True)
        beneath(image, path).symlink_to(outside / path.name)
        beneath(image, path).with_name(f"{path.name}.new").symlink_to(outside / path.name)
    before = everything(outside)
    install(image)
    uninstall(image, "--purge", "--yes")
    assert everything(outside) == before


def test_by_the_names_alone_a_link_leads_out_of_the_image(image, outside):
    """The control."""
    lead_out(image, outside, absolute=True)
    beneath(image, SERVICE).with_name("written").touch()
    assert (outside / "system/written").exists()


@pytest.mark.parametrize("target", ["../var/usrlocal", "/var/usrlocal"])
def test_links_within_an_image_are_followed_in_it(image, target):
    (image / "var/usrlocal").mkdir(parents=True)
    (image / "usr").mkdir()
    (image / "usr/local").symlink_to(target)
    install(image)
    assert OURS in (image / "var/usrlocal/bin/relay").read_text()
    assert not re.search("^(make|change) ", install(image), re.MULTILINE)
    uninstall(image)
    assert not (image / "var/usrlocal/bin/relay").exists()


def test_links_in_a_circle_are_refused(image):
    (image / "usr").mkdir()
    (image / "usr/local").symlink_to("local")
    assert "symbolic links" in install(image, status=1)


def read_in(image, path):
    content, _ = Image(image).file(path)
    return content


# uninstalling


def test_uninstalling_leaves_settings_and_events(tmp_path):
    install(tmp_path)
    (tmp_path / "var/lib/relay").mkdir(parents=True)
    (tmp_path / "var/lib/relay/relay.db").write_text("events")
    before = everything(tmp_path)
    shown = " ".join(uninstall(tmp_path, "--dry-run").split())
    assert f"remove {SERVICE}" in shown
    assert f"keep {CONFIG.parent}" in shown
    assert everything(tmp_path) == before
    uninstall(tmp_path)
    assert {str(path) for path in everything(tmp_path) if (tmp_path / path).is_file()} == {
        "etc/relay/relay.yaml",
        "etc/relay/credentials/sumotext-token",
        "var/lib/relay/relay.db",
    }
    uninstall(tmp_path)


def test_purging_leaves_nothing_once_it_is_confirmed(tmp_path):
    install(tmp_path)
    (tmp_path / "var/lib/relay").mkdir(parents=True)
    before = everything(tmp_path)
    assert "for good?" in uninstall(tmp_path, "--purge", status=1, input="n\n")
    assert everything(tmp_path) == before
    uninstall(tmp_path, "--purge", "--yes")
    assert not [path for path in everything(tmp_path) if "relay" in path.name]


# what is shipped


def test_the_wheel_has_what_is_installed(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for name in ("relay.service", "relay.socket", "relay.installed.yaml"):
        assert shipped[f"config/{name}"] == f"relay/installed/{name}"


def test_the_example_of_a_unit_is_what_an_installation_writes(root, tmp_path):
    install(tmp_path)
    for path in (SERVICE, SOCKET):
        assert read(tmp_path, path) == (root / "config" / path.name).read_text()


def test_the_settings_that_are_installed_keep_all_data_where_the_service_may_write(root):
    settings = yaml.safe_load((root / "config/relay.installed.yaml").read_text())
    unit = (root / "config/relay.service").read_text()
    (folder,) = setting(unit, "WorkingDirectory")
    assert Path("/var/lib", *setting(unit, "StateDirectory")) == Path(folder)
    for path in (settings["store"], settings["sinks"]["archive"]["options"]["path"]):
        assert Path(path).parent == Path(folder)


# systemd's own word


@pytest.fixture
def analyze():
    """systemd-analyze, which needs no running systemd for this."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: apt-get install systemd")

    def run(*words):
        words = ["systemd-analyze", *map(str, words)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    return run


def test_little_is_open_to_whoever_breaks_in(root, tmp_path, analyze):
    """The exposure is at most 1.2 of 10; a service without these lines has 9 and more."""
    security = ("security", "--offline=true", "--threshold=12", "--no-pager")
    found = analyze(*security, root / "config/relay.service")
    assert found.returncode == 0, found.stdout[-300:]
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert analyze(*security, bare).returncode != 0


def test_systemd_understands_every_line_of_the_units(tmp_path, analyze):
    install(tmp_path, program=Path("/bin/true"))
    units = [beneath(tmp_path, path) for path in (SERVICE, SOCKET)]
    told = analyze("verify", "--man=no", *units).stderr
    assert not [line for line in told.splitlines() if "relay" in line]
    broken = tmp_path / "relay-broken.service"
    broken.write_text("[Service]\nExecStart=/bin/true\nRestartt=always\n")
    assert "Restartt" in analyze("verify", "--man=no", broken).stderr
