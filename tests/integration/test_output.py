"""What a person reads: on a terminal, in a log, when something fails; and that none of it holds a secret."""

import json
import os
import re
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests import journal as journals
from tests.events import STEPS
from tests.simulators.device import REPOSITORY
from tests.terminal import make_terminal, on_terminal

UTF8 = {"PYTHONIOENCODING": "utf-8"}
PLAINTEXTS = ("correct horse", "N0tAReal0ne", "Grüße")


def in_use(device):
    """Give the words for what is in use."""
    identity = device.current_identity()
    until = identity.certificate.not_valid_after_utc
    subject = identity.certificate.subject.rfc4514_string()
    return (
        f"key {identity.key}, certificate {identity.certificate_name} ({subject}), "
        f"valid until {until:%Y-%m-%d %H:%M} UTC"
    )


# On a terminal


@pytest.mark.parametrize(("encoding", "dots"), [("utf-8", "…"), ("ascii", "...")])
def test_on_a_terminal_there_is_a_line_per_step_and_a_closing_one(files, encoding, dots):
    files.device.write_request("certs-1")
    shown = on_terminal(files.device, "rotate", environment={"PYTHONIOENCODING": encoding}, columns=500)
    assert shown.status == DONE
    unfinished = tuple(f"[{number}/5] {name} {dots} " for number, name in enumerate(STEPS, start=1))
    lines = [line for line in shown.lines if not line.startswith("warning: ") and line not in unfinished]
    for number, (name, line) in enumerate(zip(STEPS, lines, strict=False), start=1):
        assert re.fullmatch(rf"\[{number}/5\] {name} {re.escape(dots)} ok, \d+\.\d s", line)
    assert lines[5:] == [f"Done: certs-1. In use now: {in_use(files.device)}"]


def test_a_warning_on_a_terminal_has_a_line_of_its_own_and_the_steps_end_too(files):
    files.est.validity = timedelta(days=30)  # ends before the current certificate: a warning inside step 1
    files.device.write_request("certs-1")
    shown = on_terminal(files.device, "rotate", environment=UTF8, columns=500)
    assert shown.status == DONE
    lines = shown.lines
    begun = lines.index("[1/5] Generate new certificate … ")
    assert re.match(r"warning: .* ends ", lines[begun + 1])
    ended = [line for line in lines if re.fullmatch(r"\[1/5\] Generate new certificate … ok, \d+\.\d s", line)]
    assert len(ended) == 1


def test_a_steps_name_shows_before_the_step_is_done(files):
    device, go_on, seen = files.device, threading.Event(), []
    files.gateway.faults.add("PATCH", "/device", hang=go_on)
    device.write_request("certs-1")
    ours, theirs = make_terminal()
    environment = device.environment() | UTF8
    with subprocess.Popen(
        device.command(), stdout=theirs, stderr=subprocess.DEVNULL, env=environment, cwd=REPOSITORY
    ) as process:
        os.close(theirs)
        while not b"".join(seen).endswith("on server … ".encode()):
            seen.append(os.read(ours, 4096))
        go_on.set()
        assert process.wait(30) == SWITCHED
    os.close(ours)


def test_on_a_terminal_a_failed_step_has_its_reason_below_it(files):
    files.gateway.supports_rotation = False
    files.device.write_request("certs-1")
    shown = on_terminal(files.device, "rotate", environment=UTF8, columns=500)
    assert shown.status == REFUSED
    lines = shown.lines
    gateway = files.gateway_server.url.removeprefix("https://")
    refused = f"device gateway {gateway}: PATCH /device: it does not support key rotation"
    (failed,) = [index for index, line in enumerate(lines) if "failed, " in line]
    assert lines[failed].startswith("[2/5] Lock device configuration on server … failed, ")
    assert lines[failed + 1].startswith(f"      {refused}")
    assert lines[-1] == "renew-client-cert: refused; correct that, then rotate again"


# In a log


def test_in_a_log_each_line_is_one_fact(factory):
    factory.device.write_request("certs-1")
    done = factory.device.run()
    lines = done.stdout.splitlines()
    for number, (name, line) in enumerate(zip(STEPS, lines, strict=False), start=1):
        assert re.fullmatch(rf"\[{number}/5\] {name}: ok, \d+\.\d s", line)
    assert lines[5:] == ["rotation certs-1 complete", f"in use now: {in_use(factory.device)}"]
    assert [line for line in done.stderr.splitlines() if not line.startswith("warning: ")] == []
    assert "\x1b" not in done.stdout + done.stderr


def test_a_failure_is_said_once_where_it_happened_and_once_at_the_end(files):
    files.est.faults.add("POST", "/simplereenroll", status=400, body="this CSR is not for me")
    files.device.write_request("certs-1")
    done = files.device.run()
    assert done.returncode == REFUSED
    assert re.search(r"^\[1/5\] Generate new certificate: failed, .*this CSR is not for me$", done.stdout, re.MULTILINE)
    (line,) = done.stderr.splitlines()
    assert line.startswith("renew-client-cert: refused: ")
    assert files.est_server.netloc in line
    assert "this CSR is not for me" in line


def test_what_is_pending_names_the_command_that_goes_on(files):
    # A name that cannot be resolved: no time is spent on trying again.
    files.device.write_request("certs-1", estserver="https://nowhere.invalid/.well-known/est")
    done = files.device.run()
    assert done.returncode == PENDING
    assert "nowhere.invalid" in done.stderr
    assert done.stderr.rstrip().endswith("`renew-client-cert resume` continues it")


def test_an_unknown_key_of_the_request_is_a_warning_without_its_value(files):
    files.device.write_request("certs-1", apikey="hunter2")
    done = files.device.run()
    assert done.returncode == SWITCHED
    assert f"warning: line 5 of {files.device.request_file}: ignoring unknown key 'APIKEY'" in done.stderr
    assert "hunter2" not in done.stderr


def test_verbose_says_more_and_nothing_else_changes(files):
    files.device.write_request("certs-1")
    quiet = files.device.run()
    files.device.write_request("certs-2")
    verbose = files.device.run("-v")
    assert (quiet.returncode, verbose.returncode) == (SWITCHED, SWITCHED)
    assert len(verbose.stdout.splitlines()) == len(quiet.stdout.splitlines())


# Secrets


def secrets_of(device):
    """Give what must never show: plaintexts, the PIN, and the private keys as PEM and as numbers.

    Of a PEM only the first line counts: it holds the whole number of a P-256 key, and the last one is its public key's.
    """
    pin = [device.token.pin] if device.token else []
    keys = []
    for path in device.private_key_files():
        pem = path.read_text()
        number = load_pem_private_key(pem.encode(), None).private_numbers().private_value
        keys += [pem.splitlines()[1], f"{number:x}", str(number)]
    return ["PRIVATE KEY", *PLAINTEXTS, *pin, *keys]


def test_no_secret_shows_anywhere_while_a_rotation_runs_or_after_it(factory, until):
    device, go_on = factory.device, threading.Event()
    # It stops where the journal, the new key and config.encrypted's copy are all there.
    factory.gateway.faults.add("PATCH", "/config", hang=go_on)
    device.write_request("certs-1")
    with device.start("-v", "rotate") as process:
        until(lambda: ("PATCH", "/config") in factory.gateway.calls())
        secrets = secrets_of(device)
        found = {f"/proc/{process.pid}/cmdline": Path(f"/proc/{process.pid}/cmdline").read_text()}
        journal = device.storage / "renew-client-cert"
        assert journal.stat().st_mode & 0o777 == 0o700
        for path in journal.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600
            found[path.name] = path.read_text()
        go_on.set()
        found["stdout"], found["stderr"] = process.communicate(timeout=30)
    assert process.returncode == DONE
    assert {journals.path(device.storage).name, "config.encrypted"} <= found.keys()
    found["completed"] = (device.storage / "cert-rotation.state.completed").read_text()
    found["events"] = json.dumps(factory.gateway.events)
    for request in [*factory.est.requests, *factory.gateway.requests]:
        found[f"{request.method} {request.path}"] = f"{request.headers}{request.body.decode()}"
    secrets += secrets_of(device)
    assert [(name, secret) for name, text in found.items() for secret in secrets if secret in text] == []


@pytest.mark.parametrize("where", ["CSR", "files on the server"])
def test_no_secret_shows_where_a_rotation_fails(factory, where):
    device = factory.device
    if where == "CSR":
        factory.est.faults.add("POST", "/simplereenroll", status=400, body="no")
    else:
        (entry,) = [each for name, each in factory.gateway.config_device.items() if name == "wireguard-client"]
        entry["Value"] = entry["Value"][:-8] + "AAAAAAA="
    device.write_request("certs-1")
    done = device.run("-v")
    assert done.returncode == REFUSED
    left = [path.read_text() for path in (device.storage / "renew-client-cert").rglob("*") if path.is_file()]
    everything = " ".join([done.stdout, done.stderr, json.dumps(factory.gateway.events), *left])
    assert [each for each in secrets_of(device) if each in everything] == []
