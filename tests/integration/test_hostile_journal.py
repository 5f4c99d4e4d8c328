"""A journal that is none, or one of a later version: every command says so in words, the daemon too."""

import json
import os
from pathlib import Path

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import marker, read_pending
from handler.journal.records import parse, replace_all
from tests import journal as journals
from tests import softhsm
from tests.invariants import broken_files, broken_invariants

from .daemons import ID, QUICK, SLOW, ended, left_pending, running, systemd
from .in_process import call

__all__ = ["systemd"]  # a fixture
pytestmark = pytest.mark.requested(ID)
COMMANDS = [(), ("rotate",), ("resume",), ("resume", "--offline"), ("resume", "--unattended"), ("abort",)]
LOOKS = [("status",), ("log",), ("check",), ("rotate", "--dry-run")]


def journal(factory):
    return journals.path(factory.device.storage)


def set_aside(factory, end):
    return journal(factory).with_name(f"rotation.{end}")


def left_after_enrolment(factory):
    factory.gateway.faults.add("PATCH", "/device", times=None, status=503)
    assert call(factory.device).status == PENDING
    factory.gateway.faults.clear()


def of_a_later_version(factory):
    """Leave a journal that a later version wrote, with more in it than this one knows."""
    left_pending(factory)
    content = journals.read(factory.device.storage)
    content["rotation"]["later"] = content["waiting"]["later"] = True
    replace_all(journal(factory), {**content, "version": 3})
    return journal(factory).read_bytes()


@pytest.mark.parametrize(
    "content", [b"\0" * 4096, b"\x00\xff garbage", b"[" * 200_000], ids=["zeros", "garbage", "deep"]
)
def test_the_daemon_has_a_broken_journal_set_aside_and_said_to_be(files, systemd, content):
    left_pending(files)
    journal(files).write_bytes(content)
    with running(files, systemd, *SLOW) as daemon:
        errors = ended(daemon)
    assert any(each.startswith("STATUS=checking the journal: line 1 is unreadable") for each in systemd.said)
    assert "is damaged" in errors
    assert "setting it aside as rotation.broken" in errors
    assert not set_aside(files, "broken").exists()
    assert not marker(files.device.storage).exists()
    assert files.device.run("rotate").returncode == DONE  # sota.toml names a whole identity


@pytest.mark.parametrize("command", [*COMMANDS, *LOOKS], ids=" ".join)
def test_no_command_fails_for_a_broken_journal(files, command):
    left_pending(files)
    journal(files).write_bytes(b"[" * 200_000)
    done = files.device.run(*command)
    assert "Traceback" not in done.stderr
    assert done.returncode == {(): SWITCHED, ("check",): 1}.get(command, DONE)
    said = done.stdout + done.stderr
    assert "is damaged" in said or "unknown" in said


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_journal_of_a_later_version_is_refused_by_every_command(files, command):
    before = of_a_later_version(files)
    identity = files.device.current_identity()
    asked = len(files.gateway.requests)
    done = files.device.run(*command)
    assert done.returncode == REFUSED
    assert "a later version of the program wrote" in done.stderr
    assert journal(files).read_bytes() == before
    assert files.device.current_identity() == identity
    assert len(files.gateway.requests) == asked


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_a_journal_of_a_later_version_is_said_to_be_one(files, command):
    before = of_a_later_version(files)
    done = files.device.run(*command)
    assert "Traceback" not in done.stderr
    assert "a later version of the program wrote" in " ".join((done.stdout + done.stderr).split())
    assert journal(files).read_bytes() == before


def test_the_daemon_waits_for_the_later_version_to_be_installed_again(files, systemd, until):
    before = of_a_later_version(files)
    with running(files, systemd, *QUICK) as daemon:
        until(lambda: any("later version" in each for each in systemd.said if each.startswith("STATUS=next attempt")))
        assert journal(files).read_bytes() == before
        assert marker(files.device.storage).exists()
        (content,) = parse(before)[0]
        replace_all(journal(files), {**content, "version": 2, "waiting": None})
        ended(daemon)
    assert broken_invariants(files, ID, completed=True) == []
    assert read_pending(files.device.storage) is None


def test_a_record_that_is_being_appended_is_none_yet(files, systemd, until):
    left_pending(files)
    whole = journal(files).read_bytes()
    _, last = whole[:-1].rsplit(b"\n", 1)
    with running(files, systemd, *SLOW) as daemon:
        until(lambda: any("come back" in each for each in systemd.said))
        with journal(files).open("ab") as file:
            file.write(last[: len(last) // 2])
            file.flush()
            assert read_pending(files.device.storage).problem is None
            file.write(last[len(last) // 2 :] + b"\n")
        daemon.terminate()
        ended(daemon)
    assert journal(files).read_bytes() == whole + last + b"\n"


@pytest.mark.parametrize("line", [0, 1, -2])
def test_damage_in_the_middle_is_said_and_the_device_stays_whole(files, line):
    left_pending(files)
    lines = journal(files).read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"e", b"f", 1)
    journal(files).write_bytes(b"".join(lines))
    done = files.device.run()
    assert f"line {line % len(lines) + 1} is unreadable): setting it aside as rotation.broken" in done.stderr
    assert done.returncode == SWITCHED
    assert files.device.run("resume").returncode == DONE
    assert broken_files(files) == []


def test_a_journal_of_the_first_version_goes_on(factory):
    left_after_enrolment(factory)
    content = journals.read(factory.device.storage)
    journals.write_earlier(factory.device.storage, content)
    assert call(factory.device, "resume").status == DONE
    assert len(factory.est.csrs) == 1
    assert broken_invariants(factory, ID, completed=True) == []
    assert not journal(factory).with_name("rotation.json").exists()


def test_the_first_version_refuses_a_journal_of_today(files):
    """0.1.0 treats a version above 1 as a later program's, and touches nothing."""
    left_pending(files)
    assert json.loads(journal(files).with_name("rotation.json").read_bytes())["version"] > 1
    assert files.device.run("abort").returncode == DONE
    assert not journal(files).with_name("rotation.json").exists()


def test_a_surrogate_in_the_reason_does_not_end_the_daemon(files, systemd, until):
    left_pending(files)
    content = journals.read(files.device.storage)
    content["waiting"] |= {"reason": "a\udc80b", "until": None}
    journals.write(files.device.storage, content)
    with running(files, systemd, *SLOW) as daemon:
        until(lambda: any("a\\udc80b" in each for each in systemd.said))
        daemon.terminate()
        ended(daemon)


# What the rotation in a journal that was lost has left


LEFT = {
    "enrolled": ("PATCH", "/device", {"status": 503}),
    "the files on the server moved": ("PATCH", "/config", {"drop": "after"}),
    "switched": ("*", "*", {"status": 503, "announced": True}),
}


def lost_after(factory, place):
    """Have a rotation come so far, and break its journal."""
    method, path, fault = LEFT[place]
    factory.gateway.faults.add(method, path, times=None, **fault)
    assert call(factory.device).status in (PENDING, SWITCHED)
    factory.gateway.faults.clear()
    journal(factory).write_bytes(b"\0" * 100)


def broken_but_for_keys(factory):
    """List what does not hold after the next rotation; the key files of the one that was lost stay."""
    broken = broken_invariants(factory, "certs-next", completed=True)
    return [each for each in broken if not each.startswith("private keys that nothing refers to")]


@pytest.mark.parametrize("place", LEFT)
def test_what_a_lost_rotation_has_moved_to_its_key_is_readable_after_the_next_one(factory, place):
    lost_after(factory, place)
    factory.device.write_request("certs-next")
    assert call(factory.device).status == SWITCHED
    assert not set_aside(factory, "broken").exists()
    assert call(factory.device, "resume").status == DONE
    broken = broken_but_for_keys(factory)
    if place == "switched":  # its journal held the only word of that
        broken = [each for each in broken if "certs-" not in each]
    assert broken == []


def test_a_resume_mends_what_a_lost_rotation_has_moved(factory):
    lost_after(factory, "the files on the server moved")
    assert broken_files(factory) != []
    assert call(factory.device, "unattended").worked
    assert broken_files(factory) == []
    assert not call(factory.device, "resume").worked


def test_offline_config_encrypted_is_readable_after_a_journal_was_lost_in_the_switch(factory):
    old = factory.device.config_encrypted.read_bytes()
    lost_after(factory, "switched")
    factory.device.config_encrypted.write_bytes(old)
    assert call(factory.device, "offline").status == DONE
    assert factory.device.plaintexts()
    assert call(factory.device, "offline").status == DONE
    assert call(factory.device).status == SWITCHED
    assert call(factory.device, "resume").status == DONE
    assert broken_files(factory) == []


def test_a_lost_journal_is_kept_until_everything_is_readable(factory):
    lost_after(factory, "the files on the server moved")
    factory.gateway.faults.add("GET", "/config-device", times=None, status=503)
    assert call(factory.device).status == PENDING
    factory.gateway.faults.clear()
    factory.est.faults.add("POST", "/simplereenroll", status=403)
    assert call(factory.device, "resume").status == REFUSED
    assert broken_files(factory) == []
    assert call(factory.device).status == SWITCHED
    assert call(factory.device, "resume").status == DONE
    assert broken_files(factory) == []
    assert len(factory.device.private_key_files()) == (0 if factory.device.token else 3)


def test_a_folder_in_the_journals_place_holds_nothing_up(files):
    files.device.write_request(ID)
    folder = files.device.storage / "renew-client-cert"
    for name in ("journal", "rotation.json", "rotation.broken"):
        (folder / name / "in it").mkdir(parents=True)
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize(
    "put", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["file", "FIFO", "link"]
)
@pytest.mark.parametrize("command", [(), ("rotate",), ("resume",), ("abort",)], ids=" ".join)
def test_no_folder_in_the_journals_place_is_refused_by_its_name(files, put, command):
    files.device.write_request(ID)
    put(files.device.storage / "renew-client-cert")
    done = files.device.run(*command)
    assert done.returncode == REFUSED
    assert "renew-client-cert is not a folder, but the journal needs it: remove it" in done.stderr


def test_files_of_others_are_neither_waited_for_nor_removed(files):
    """After a journal was lost: other files in the storage folder that look like keys."""
    files.device.write_request(ID)
    lost_after(files, "the files on the server moved")
    storage, identity = files.device.storage, files.device.current_identity()
    pem = Path(identity.key).read_bytes()
    for name in ("client.ca.pem", "client.fed.pem", "client.12.pem", "pkey.12.pem", "vpn.pem"):
        (storage / name).write_bytes(pem)
    (storage / "loop.pem").symlink_to(storage / "loop.pem")
    os.mkfifo(storage / "fifo.pem")
    before = {each.name for each in storage.glob("*.pem")}
    assert call(files.device, "resume").status == DONE
    files.device.write_request("certs-next")
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert broken_files(files) == []
    now = {each.name for each in storage.glob("*.pem")}
    assert before <= now
    assert len(now - before) == 2  # the new identity


def test_keys_of_others_in_the_token_are_neither_used_nor_in_the_way(token):
    old = token.device.config_encrypted.read_bytes()
    lost_after(token, "switched")
    token.device.config_encrypted.write_bytes(old)
    softhsm.add_rsa_key_pair(token.device.token, 2)
    softhsm.add_key_pair(token.device.token, 4, label="edgelock")
    assert call(token.device, "offline").status == DONE
    assert token.device.plaintexts()
    assert call(token.device, "resume").status == DONE
    assert broken_files(token) == []


@pytest.mark.parametrize("body", ["[]", "not JSON"])
def test_an_answer_that_says_nothing_of_the_files_is_none_of_them(factory, body):
    """What cannot be read at all is no reason to believe that no key reads it."""
    lost_after(factory, "the files on the server moved")
    fault = factory.gateway.faults.add("GET", "/config-device", times=None, status=200, body=body)
    assert [call(factory.device, "unattended").status for _ in range(2)] == [REFUSED, DONE]
    assert fault.used == 1
    assert call(factory.device).status == REFUSED
    assert not marker(factory.device.storage).exists()
    factory.gateway.faults.clear()
    factory.device.write_request("certs-next")
    assert call(factory.device).status == SWITCHED
    assert call(factory.device, "resume").status == DONE
    assert broken_but_for_keys(factory) == []


def test_the_ids_of_the_next_request_are_not_all_that_is_looked_at(token):
    token.device.write_request(ID, pkeyids="01,05", certids="03,06")
    lost_after(token, "the files on the server moved")
    token.device.write_request("certs-next")
    assert call(token.device).status == SWITCHED
    assert call(token.device, "resume").status == DONE
    assert broken_files(token) == []


@pytest.mark.parametrize("status", [400, 403])
def test_what_is_refused_in_mending_stops_neither_events_nor_in_files_a_rotation(files, status):
    files.device.write_request(ID)
    files.gateway.faults.add("*", "*", announced=True, times=None, status=503)
    assert call(files.device).status == SWITCHED
    (files.device.storage / "renew-client-cert/rotation.broken").write_text("{}")
    key = Path(files.device.current_identity().key)
    files.gateway.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert key.exists()
    files.device.write_request("certs-next")
    files.gateway.faults.add("GET", "/config-device", status=status)
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert broken_invariants(files, "certs-next", completed=True) == []


def test_a_gateway_that_is_away_has_the_daemon_come_back(files):
    files.device.write_request(ID)
    lost_after(files, "the files on the server moved")
    files.gateway.faults.add("GET", "/config-device", times=None, status=503)
    assert call(files.device, "unattended").status == PENDING
    pending = read_pending(files.device.storage)
    assert (pending.due, marker(files.device.storage).exists()) == (True, True)
    # fioconfig, which calls at each boot with what is already complete, is not held up by it.
    asked = len(files.gateway.requests)
    files.device.request_file.unlink()
    assert call(files.device, "withdraw").status == DONE
    assert len(files.gateway.requests) == asked
    files.gateway.faults.clear()
    assert call(files.device, "unattended").status == DONE
    assert broken_files(files) == []
    assert read_pending(files.device.storage) is None
    assert not marker(files.device.storage).exists()
    asked = len(files.gateway.requests)
    assert not call(files.device, "resume").worked
    assert len(files.gateway.requests) == asked
