"""`check`: every kind of problem has its line, stops no other check, and changes nothing on the device or a server."""

import re
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handler.commands.check import Check, exit_status, lines_of, summary
from handler.commands.checks.device import disk_finding
from handler.commands.checks.finding import OK, PROBLEM, Finding
from handler.commands.checks.system import System
from handler.console.arguments import Settings, make_parser
from handler.console.terminal import Console
from handler.device.configuration.values import Configured
from handler.device.refused_pin import RefusedPin
from handler.device.request import Overrides
from handler.device.services import Services
from handler.device.storage import DeviceLock
from handler.exit_status import DONE, PENDING, SWITCHED
from tests import softhsm
from tests.simulators.device import REPOSITORY
from tests.simulators.pki import certificate_pem, key_pem
from tests.terminal import on_terminal

from .flagged_token import COUNT_LOW, FINAL_TRY, LOCKED, FlaggedToken
from .looking import look

WARNINGS, PROBLEMS = 1, 2
ID = "certs-check"
GATEWAY, EST = ("GET", "/config-device"), ("GET", "/.well-known/est/cacerts")
HSM = "usr/lib/sota/conf.d/40-hsm.toml"
NOT_YET = {"status": 503, "headers": {"Retry-After": "3000"}, "times": None}
HERE = {"services", "handler"}
"""What is never as on a device where tests run."""
(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def findings(done):
    """Give the lines as (level, topic, text), without the last one, and without those about the tests' own system."""
    found = [tuple(re.split(r" +", line, maxsplit=1)) for line in done.stdout.splitlines()[:-1]]
    parts = [(level, rest[:15].strip(), rest[15:]) for level, rest in found]
    return [part for part in parts if part[1] not in HERE]


def not_ok(done):
    """Give level and topic of what is not ok, and all its text."""
    found = [each for each in findings(done) if each[0] not in ("ok", "skipped")]
    return {(level, topic) for level, topic, _ in found}, " | ".join(text for *_, text in found)


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def checked(factory, *arguments, asked=(), **given):
    return look(factory, "check", *arguments, asked=asked, **given)


# All well


def test_a_device_that_is_ready_has_nothing_but_ok(factory):
    factory.device.write_request(ID)
    done = checked(factory, asked=[GATEWAY, EST])
    assert not_ok(done)[0] == set()
    assert [each for each in findings(done) if each[0] == "skipped"] == []
    assert done.returncode == WARNINGS  # of a system without systemd
    assert done.stdout.splitlines()[-1].endswith("a rotation can go ahead")


def test_each_value_is_shown_with_the_file_it_comes_from_but_the_pin(token):
    (token.device.folder / "etc/sota/conf.d/50-label.toml").write_text(f'[p11]\nlabel = "{token.device.token.label}"\n')
    done = checked(token, asked=[GATEWAY])
    lines = [text for level, topic, text in findings(done) if topic == "configuration"]
    folder = token.device.folder
    assert f"p11.label = {token.device.token.label} ({folder}/etc/sota/conf.d/50-label.toml)" in lines
    assert f"p11.pass = set, not shown ({folder}/{HSM})" in lines
    assert f"p11.tls_pkey_id = 01 ({folder}/var/sota/sota.toml)" in lines
    assert f"{folder}/var/sota/sota.toml can be written: the new names go there" in lines


def test_without_a_request_file_est_is_skipped_with_how_to_give_it(factory):
    done = checked(factory, asked=[GATEWAY])
    assert not_ok(done)[0] == set()
    (line,) = [text for level, topic, text in findings(done) if (level, topic) == ("skipped", "EST")]
    assert "--est-server URL" in line


def test_est_is_tried_where_an_option_says_where_it_is(factory):
    done = checked(factory, "--est-server", factory.device.est_url, asked=[GATEWAY, EST])
    assert not_ok(done)[0] == set()
    assert "/cacerts: 1 CA certificates" in done.stdout


def test_it_works_while_another_process_holds_the_lock(factory):
    with DeviceLock(factory.device.storage).acquire(1.0):
        assert not_ok(checked(factory, asked=[GATEWAY]))[0] == set()


def test_only_the_certificate_in_use_is_shown_to_the_servers(factory):
    factory.device.write_request(ID)
    checked(factory, asked=[GATEWAY, EST])
    used = factory.device.current_identity().public_key
    assert {each.public_key for each in (*factory.gateway.requests, *factory.est.requests)} == {used}


# Configuration, files, disk


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('ca_source = "file"', 'ca_source = "pkcs11"', "tls.ca_source is 'pkcs11': expected \"file\""),
        ('\ncert_source = "file"', '\ncert_source = "pkcs11"', "tls.cert_source is pkcs11"),
        ('\npkey_source = "file"', '\npkey_source = "tpm"', "tls.pkey_source is 'tpm'"),
        ('server = "https://', 'server = "http://', "tls.server is no address"),
        ('server = "https://', 'server = "https://h:99999/', "tls.server is no address"),
        ('server = "https://', 'server = "https://[::1/', "tls.server is no address"),
        ("tls_clientcert_path", "no_path", "import.tls_clientcert_path is not set"),
        ("tls_cacert_path", "no_path", "import.tls_cacert_path is not set"),
        ('tls_pkey_path = "', "tls_pkey_path = 5 #", "import.tls_pkey_path is not a text"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_the_other_checks_go_on(files, old, new, words):
    replaced(files.device.sota_toml, old, new)
    asked = [GATEWAY] if "ca_source" in old else []
    done = checked(files, asked=asked)
    assert done.returncode == PROBLEMS
    levels, text = not_ok(done)
    assert ("problem", "configuration") in levels
    assert words in text
    assert str(files.device.sota_toml) in text
    assert any(topic == "disk" and level == "ok" for level, topic, _ in findings(done))


def test_a_file_that_is_not_toml_is_named_and_no_server_is_asked(factory):
    (factory.device.folder / "etc/sota/conf.d/50-broken.toml").write_text("[[[")
    done = checked(factory)
    assert done.returncode == PROBLEMS
    assert "50-broken.toml is not TOML" in not_ok(done)[1]
    assert "not asked: the configuration cannot be read whole" in done.stdout


def test_no_configuration_at_all_is_a_problem_and_no_traceback(files):
    done = checked(files, "--sota", "/nowhere/sota.toml")
    assert done.returncode == PROBLEMS
    assert "expected it in one of /nowhere/sota.toml (not there)" in not_ok(done)[1]


def test_names_that_only_a_remote_file_holds_cannot_be_changed(files):
    names = files.device.sota()["import"]
    text = f'[import]\ntls_pkey_path = "{names["tls_pkey_path"]}"\n'
    (files.device.folder / "etc/sota/conf.d/z-50-fioctl.toml").write_text(text)
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "configuration")}
    assert "cannot be changed" in text


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read: No such file"), ("x", "no readable cert")])
def test_a_ca_file_that_cannot_be_used_is_a_problem(files, content, words):
    ca_file = files.device.storage / "root.crt"
    ca_file.unlink() if content is None else ca_file.write_text(content)
    levels, text = not_ok(checked(files))
    assert ("problem", "CA file") in levels
    assert words in text


def test_secrets_that_others_may_read_are_warned_of(factory):
    device = factory.device
    path = device.folder / HSM if device.token else device.storage / "pkey.pem"
    path.chmod(0o644)
    done = checked(factory, asked=[GATEWAY])
    levels, text = not_ok(done)
    assert levels == {("warning", "permissions")}
    assert f"{path} " in text
    assert "chmod 600" in text


@pytest.mark.parametrize(
    ("mount", "level", "words"),
    [
        ('mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"', "problem", "mounted read-only"),
        (
            'cp -a "$1/." "$2" && mount -t tmpfs -o size=128k none "$1" && cp -a "$2/." "$1"',
            "problem",
            "KiB and [0-9]+ files free: make room",
        ),
        (
            'cp -a "$1/." "$2" && mount -t tmpfs -o size=1m none "$1" && cp -a "$2/." "$1"',
            "warning",
            "only [0-9]+ KiB free",
        ),
    ],
    ids=["read-only", "full", "nearly full"],
)
def test_a_disk_without_room_is_named(files, tmp_path, mount, level, words):
    device, spare = files.device, tmp_path / "spare"
    spare.mkdir()
    script = f'{mount} && mount --make-private "$1" && shift 2 && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", device.storage, spare, *device.command("check")]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=device.environment(), capture_output=True, text=True, check=False
    )
    levels, text = not_ok(done)
    assert (level, "disk") in levels, done.stdout + done.stderr
    assert re.search(words, text)


def test_a_storage_folder_that_is_missing_is_a_problem(files):
    done = checked(files, "--storage-dir", "/nowhere", asked=[])
    assert ("problem", "disk") in not_ok(done)[0]
    assert "/nowhere: No such file or directory" in not_ok(done)[1]


def test_a_folder_that_this_user_may_not_write_is_a_problem(tmp_path):
    assert disk_finding(tmp_path).level == OK
    assert disk_finding(tmp_path / "missing").level == PROBLEM


# Certificate and clock


def test_a_clock_before_the_certificate_is_a_problem(files):
    done = checked(files, environment={"FAKETIME": "-60d", "LD_PRELOAD": FAKETIME})
    assert ("problem", "clock") in not_ok(done)[0]
    assert "but the certificate begins" in not_ok(done)[1]


def test_a_clock_that_the_gateway_does_not_share_is_warned_of(files):
    done = checked(files, environment={"FAKETIME": "+1d", "LD_PRELOAD": FAKETIME}, asked=[GATEWAY])
    assert not_ok(done)[0] == {("warning", "clock")}
    assert "1440 minutes ahead of the gateway's" in not_ok(done)[1]


@pytest.mark.parametrize(
    ("clock", "level", "words"), [("+320d", "warning", "rotate soon"), ("+340d", "problem", "ended")]
)
def test_a_certificate_that_ends_soon_or_has_ended_is_named(files, clock, level, words):
    done = files.device.run("check", environment={"FAKETIME": clock, "LD_PRELOAD": FAKETIME})
    assert (level, "certificate") in not_ok(done)[0]
    assert words in not_ok(done)[1]


def test_a_key_that_does_not_belong_to_its_certificate_is_a_problem(files):
    (files.device.storage / "pkey.pem").write_bytes(key_pem(files.pki.server_identity().key))
    levels, text = not_ok(checked(files))
    assert ("problem", "certificate") in levels
    assert "do not belong together" in text


def test_a_key_on_another_curve_is_a_problem(files):
    key = ec.generate_private_key(ec.SECP521R1())
    (files.device.storage / "pkey.pem").write_bytes(key_pem(key))
    (files.device.storage / "client.pem").write_bytes(certificate_pem(files.pki.device_certificate(key.public_key())))
    levels, text = not_ok(checked(files))
    assert ("problem", "key") in levels
    assert "expected P-256 or P-384" in text


def test_values_that_the_key_in_use_cannot_read_are_a_problem(files):
    replaced(files.device.config_encrypted, '"Value": "B', '"Value": "C')
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "key")}
    assert "cannot be decrypted" in text


# The token


def test_a_module_that_is_missing_is_a_problem(token):
    replaced(token.device.folder / HSM, token.device.token.module, "/nowhere/module.so")
    levels, text = not_ok(checked(token))
    assert levels == {("problem", "token")}
    assert "/nowhere/module.so is missing" in text


def test_a_token_that_is_away_is_a_problem(token):
    with token.device.token.away():
        done = token.device.run("check")
    assert done.returncode == PROBLEMS
    levels, text = not_ok(done)
    assert levels == {("problem", "token")}
    assert token.device.token.label in text
    assert token.gateway.requests == []


@pytest.mark.parametrize(
    ("flags", "level", "words"),
    [
        (COUNT_LOW, "warning", "pkcs11-tool --login"),
        (FINAL_TRY, "problem", "one attempt left"),
        (LOCKED, "problem", "security officer's PIN"),
    ],
)
def test_a_pin_at_risk_is_not_tried(token, tmp_path, flags, level, words):
    module = FlaggedToken(token.device, tmp_path)
    done = checked(token, environment=module.environment(flags))
    assert module.logins == 0
    assert not_ok(done)[0] == {(level, "token")}
    assert words in not_ok(done)[1]


def test_a_pin_that_is_right_is_given_once(token, tmp_path):
    module = FlaggedToken(token.device, tmp_path)
    token.device.write_request(ID)
    assert not_ok(checked(token, environment=module.environment(), asked=[GATEWAY, EST]))[0] == set()
    assert module.logins == 1


def test_a_pin_that_was_refused_before_is_not_tried_again(token, tmp_path):
    RefusedPin(token.device.storage).refused(token.device.token.label, token.device.token.pin)
    module = FlaggedToken(token.device, tmp_path)
    levels, text = not_ok(checked(token, environment=module.environment()))
    assert module.logins == 0
    assert levels == {("problem", "token")}
    assert "has refused this PIN before" in text


def test_a_wrong_pin_is_tried_once_and_noted_for_later_calls(token, tmp_path):
    device = token.device
    module = FlaggedToken(device, tmp_path)
    replaced(device.folder / HSM, device.token.pin, "999111")
    for words in ("PinIncorrect", "has refused this PIN before"):
        done = device.run("check", environment=module.environment())
        assert not_ok(done)[0] == {("problem", "token")}
        assert words in not_ok(done)[1]
        assert "999111" not in done.stdout + done.stderr
    assert module.logins == 1


def test_no_pin_in_the_configuration_is_a_problem(token):
    replaced(token.device.folder / HSM, "pass = ", "no_pass = ")
    levels, text = not_ok(checked(token))
    assert ("problem", "configuration") in levels
    assert "p11.pass is not set" in text


def test_somebody_elses_object_in_the_next_slot_is_a_problem_and_other_ids_are_none(token):
    softhsm.add_key_pair(token.device.token, 7, label="edgelock")
    levels, text = not_ok(checked(token, asked=[GATEWAY]))
    assert levels == {("problem", "slots")}
    assert "labelled 'edgelock' under id 07" in text
    done = checked(token, "--pkey-ids", "01,08", asked=[GATEWAY])
    assert not_ok(done)[0] == set()
    assert "key 08 and certificate 09 are free or ours" in done.stdout


def test_a_certificate_that_is_not_in_the_token_is_a_problem(token):
    replaced(token.device.sota_toml, 'tls_clientcert_id = "03"', 'tls_clientcert_id = "05"')
    levels, text = not_ok(checked(token, asked=[]))
    assert ("problem", "certificate") in levels
    assert "expected one certificate 05" in text


# The request


@pytest.mark.parametrize(
    ("request_file", "words"),
    [
        ({"pkeyids": "01,1"}, "PKEYIDS"),
        ({"estserver": "http://a.example"}, "ESTSERVER"),
        ({"estserver": None}, "ESTSERVER is missing"),
    ],
)
def test_a_request_that_would_be_refused_is_a_problem(token, request_file, words):
    token.device.write_request(ID, **request_file)
    levels, text = not_ok(checked(token, asked=[GATEWAY]))
    assert levels == {("problem", "request")}
    assert words in text


# The servers


def test_servers_that_cannot_be_reached_are_problems(factory):
    factory.device.write_request(ID)
    factory.gateway_server.stop()
    factory.est_server.stop()
    levels, text = not_ok(checked(factory))
    assert levels == {("problem", "gateway"), ("problem", "EST")}
    assert "Connection refused" in text


def test_a_name_that_cannot_be_resolved_is_a_problem(files):
    replaced(files.device.sota_toml, 'server = "https://127.0.0.1', 'server = "https://gateway.invalid')
    levels, text = not_ok(checked(files))
    assert levels == {("problem", "gateway")}
    assert "gateway.invalid" in text
    assert "cannot be resolved" in text


def test_servers_of_another_ca_are_problems(files):
    files.device.write_request(ID)
    files.gateway.server_identity = files.est.server_identity = files.pki.server_identity(issuer=files.pki.root)
    levels, text = not_ok(checked(files))
    assert levels == {("problem", "gateway"), ("problem", "EST")}
    assert "not trusted" in text


def test_a_server_of_another_name_is_a_problem(files):
    files.device.write_request(ID)
    files.est.server_identity = files.pki.server_identity(["est.example"])
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "EST")}
    assert "not trusted" in text


@pytest.mark.parametrize("how", [401, 403, "alert"])
def test_a_gateway_that_refuses_the_certificate_is_a_problem(files, how):
    files.gateway.denied_with = how
    files.gateway.denied.add(files.gateway.current)
    files.gateway.current = None
    levels, text = not_ok(checked(files, asked=[] if how == "alert" else [GATEWAY]))
    assert levels == {("problem", "gateway")}
    assert ("TLS alert" if how == "alert" else f"HTTP {how}") in text


def test_a_gateway_in_trouble_is_asked_once_only(files):
    files.gateway.faults.add("GET", "/config-device", times=None, status=503)
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "gateway")}
    assert "HTTP 503" in text


def test_files_on_the_gateway_that_the_key_cannot_read_are_a_problem(files):
    entry = next(each for each in files.gateway.config_device.values() if not each["Unencrypted"])
    entry["Value"] = "C" + entry["Value"][1:]
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "gateway")}
    assert "cannot be decrypted" in text


def test_an_est_server_that_refuses_the_certificate_is_a_problem(files):
    files.device.write_request(ID)
    files.est.faults.refuse_certificate(files.device.certificate)
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "EST")}
    assert "TLS alert certificate revoked" in text


def test_an_est_server_without_cacerts_or_without_a_question_is_warned_of(files):
    files.device.write_request(ID)
    files.est.cacerts_status = 404
    files.est.client_certificate = ssl.CERT_NONE
    levels, text = not_ok(checked(files, asked=[GATEWAY, EST]))
    assert levels == {("problem", "EST"), ("warning", "EST")}
    assert "HTTP 404" in text
    assert "ends with /.well-known/est" in text
    assert "asks for no client certificate" in text


# A rotation is pending


def test_a_certificate_that_the_gateway_may_not_have_seen_is_not_shown_to_it(factory):
    device = factory.device
    device.write_request(ID)
    factory.gateway.faults.add("POST", "/events", **NOT_YET)
    assert device.run().returncode == SWITCHED
    factory.gateway.faults.clear()
    before = factory.gateway.current
    done = checked(factory, asked=[EST])
    assert factory.gateway.current == before != device.current_identity().public_key
    (line,) = [text for level, topic, text in findings(done) if (level, topic) == ("skipped", "gateway")]
    assert "not asked" in line
    assert "point of no return" in line
    assert not_ok(done)[0] == {("warning", "rotation")}


def test_an_est_server_that_is_the_gateway_is_not_asked_either_then(files):
    device = files.device
    device.write_request(ID)
    files.gateway.faults.add("POST", "/events", **NOT_YET)
    assert device.run().returncode == SWITCHED
    files.gateway.faults.clear()
    done = checked(files, "--est-server", f"{files.gateway_server.url}/.well-known/est")
    assert "not asked, because it is the gateway too" in done.stdout


def test_a_gateway_is_not_asked_where_it_cannot_be_known_what_it_has_seen(files):
    journal = files.device.storage / "renew-client-cert/rotation.json"
    journal.parent.mkdir(mode=0o700)
    journal.write_text("{")
    done = checked(files)
    assert "not asked: it is not known whether a rotation is pending" in done.stdout
    assert ("warning", "rotation") in not_ok(done)[0]
    journal.unlink()
    (files.device.storage / "cert-rotation.state").write_text("{}")
    assert "a rotation that fioconfig left is pending" in checked(files).stdout


def test_before_the_switch_the_gateway_is_asked_with_the_old_certificate(factory):
    device = factory.device
    device.write_request(ID)
    factory.gateway.faults.add("PATCH", "/device", **NOT_YET)
    assert device.run().returncode == PENDING
    old = device.current_identity().public_key
    done = checked(factory, asked=[GATEWAY, EST])
    assert factory.gateway.requests[-1].public_key == old
    assert not_ok(done)[0] == {("warning", "rotation")}
    assert f"{ID} is pending after step 1" in not_ok(done)[1]


def test_after_the_proof_the_gateway_is_asked_with_the_new_certificate(factory):
    factory.device.write_request(ID)
    assert factory.device.run().returncode == SWITCHED
    done = checked(factory, asked=[GATEWAY, EST])
    assert not_ok(done)[0] == {("warning", "rotation")}
    assert factory.gateway.requests[-1].public_key == factory.gateway.current
    assert factory.device.run("resume").returncode == DONE


# The system


class Systemd:
    """A systemctl that answers as a test says."""

    def __init__(self, folder):
        self._folder = folder
        (folder / "run").mkdir()
        self._handler = folder / "handler"
        self._handler.write_text("from handler.cli import main")
        self._handler.chmod(0o755)
        self.units = {
            "fioconfig.service": ("loaded", "active", "enabled"),
            "aktualizr-lite.service": ("loaded", "active", "enabled"),
            "renew-client-cert.service": ("loaded", "inactive", "static"),
            "renew-client-cert.path": ("loaded", "active", "enabled"),
            "renew-client-cert-offline.service": ("loaded", "inactive", "enabled"),
        }

    def system(self, user=0):
        names = ("LoadState", "ActiveState", "UnitFileState")
        for unit, states in self.units.items():
            pairs = zip(names, states, strict=True)
            (self._folder / unit).write_text("".join(f"{name}={state}\n" for name, state in pairs))
        systemctl = self._folder / "systemctl"
        systemctl.write_text(f'#!/bin/sh\nexec cat "{self._folder}/$3"\n')
        systemctl.chmod(0o755)
        return System(Services(self._folder / "run"), str(systemctl), self._handler, lambda: user)

    @property
    def handler(self):
        return self._handler


@pytest.fixture
def systemd(tmp_path):
    folder = tmp_path / "systemd"
    folder.mkdir()
    return Systemd(folder)


def found(factory, system):
    """Run all checks in this process; give what was found."""
    settings = Settings.of(make_parser().parse_args(["check"]), factory.device.environment())
    configured = Configured(settings.search_paths, settings.storage, None)
    return list(Check(settings, configured, Overrides(), system).findings())


def test_a_device_that_is_ready_ends_with_zero(factory, systemd):
    factory.device.write_request(ID)
    all_found = found(factory, systemd.system())
    assert {each.level for each in all_found} == {"ok"}
    assert exit_status({each.level for each in all_found}) == 0
    assert summary(all_found) == "all ok: a rotation can go ahead"


@pytest.mark.parametrize(
    ("unit", "states", "level", "words"),
    [
        ("fioconfig.service", ("not-found", "inactive", ""), "warning", "fioconfig.service is not there"),
        ("aktualizr-lite.service", ("not-found", "inactive", ""), "warning", "aktualizr-lite.service is not there"),
        ("renew-client-cert.service", ("not-found", "inactive", ""), "problem", "nobody resumes a rotation"),
        ("renew-client-cert.path", ("not-found", "inactive", ""), "problem", "make install"),
        ("renew-client-cert.path", ("loaded", "inactive", "disabled"), "warning", "systemctl enable --now"),
        ("renew-client-cert.path", ("loaded", "failed", "enabled"), "warning", "systemctl start"),
        ("renew-client-cert-offline.service", ("loaded", "inactive", "disabled"), "warning", "is disabled"),
    ],
)
def test_a_unit_that_is_not_as_it_should_be_is_named(files, systemd, unit, states, level, words):
    systemd.units[unit] = states
    (finding,) = [each for each in found(files, systemd.system()) if each.level not in ("ok", "skipped")]
    assert (finding.level, unit in finding.text, words in finding.text) == (level, True, True)


@pytest.mark.parametrize(
    ("content", "mode", "level", "words"),
    [
        (None, 0, "warning", "is not there"),
        ("#!/bin/sh\nfioconfig renew-cert\n", 0o755, "warning", "is another program"),
        ("from handler.cli import main", 0o644, "problem", "chmod 755"),
    ],
)
def test_a_handler_that_fioconfig_would_not_call_is_named(files, systemd, content, mode, level, words):
    systemd.handler.unlink()
    if content is not None:
        systemd.handler.write_text(content)
        systemd.handler.chmod(mode)
    (finding,) = [each for each in found(files, systemd.system()) if each.level not in ("ok", "skipped")]
    assert (finding.level, finding.topic, words in finding.text) == (level, "handler", True)


def test_somebody_else_than_root_is_warned(files, systemd):
    (finding,) = [each for each in found(files, systemd.system(user=1000)) if each.level not in ("ok", "skipped")]
    assert (finding.level, finding.topic) == ("warning", "user")


# How it looks


def test_lines_are_folded_and_coloured_on_a_terminal_only(files):
    environment = {"TERM": "xterm"}
    shown = on_terminal(files.device, "check", environment=environment, columns=80).text
    assert "\033[32mok" in shown
    plain = re.sub(r"\033\[[0-9;]*m", "", shown)
    assert [line for line in plain.splitlines() if len(line) > 80] == []
    assert "\033" not in on_terminal(files.device, "check", environment=environment | {"NO_COLOR": "1"}).text
    assert "\033" not in files.device.run("check", environment=environment).stdout


def test_a_line_keeps_its_columns_when_it_is_folded_and_coloured():
    finding = Finding("problem", "gateway", "cannot be reached by anybody")
    lines = list(lines_of(finding, Console(45, colours=True)))
    assert lines == ["\033[1;31mproblem  \033[0mgateway        cannot be reached by", " " * 24 + "anybody"]


def test_wrong_usage_is_named(files):
    assert files.device.run("check", "--pin", "1234").returncode == 64
    assert files.device.run("status", "--est-server", "https://a.example").returncode == 64


def test_a_storage_folder_given_by_hand_does_not_hide_the_journal_of_the_configured_one(files, tmp_path):
    files.device.write_request(ID)
    files.gateway.faults.add("POST", "/events", **NOT_YET)
    assert files.device.run().returncode == SWITCHED
    files.gateway.faults.clear()
    done = checked(files, "--storage-dir", str(tmp_path), asked=[EST])
    assert "point of no return" in done.stdout
