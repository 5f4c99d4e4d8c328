"""`check` of the device: every kind of problem has its line, stops no other check, and changes nothing."""

import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handler.commands.checks.disk import disk_finding
from handler.commands.checks.result import OK, PROBLEM
from handler.device.lock import device_lock
from handler.device.refused_pin import RefusedPin
from handler.device.storage import FOLDER
from handler.exit_status import REFUSED, SWITCHED
from tests import softhsm
from tests.modules import COUNT_LOW, FINAL_TRY, LOCKED, FlaggedToken
from tests.simulators.device import REPOSITORY
from tests.simulators.pki import certificate_pem, key_pem

from .checking import checked, findings, not_ok, replaced

HTTPS_URL = "expected an https URL"

WARNINGS, PROBLEMS = 1, 2
ID = "certs-check"
GATEWAY, EST = ("GET", "/config-device"), ("GET", "/.well-known/est/cacerts")
HSM = "usr/lib/sota/conf.d/40-hsm.toml"
HERE = {"services", "handler"}
"""What is never as on a device where tests run."""
(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


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
    assert f"{folder}/var/sota/sota.toml is writable; a rotation changes it" in lines


def test_without_a_request_file_est_is_skipped_with_how_to_give_it(factory):
    done = checked(factory, asked=[GATEWAY])
    assert not_ok(done)[0] == set()
    (line,) = [text for level, topic, text in findings(done) if (level, topic) == ("skipped", "EST")]
    assert "--est-server URL" in line


def test_est_is_tried_where_an_option_says_where_it_is(factory):
    done = checked(factory, "--est-server", factory.device.est_url, asked=[GATEWAY, EST])
    assert not_ok(done)[0] == set()
    assert "/cacerts has CA certificates: 1" in done.stdout


def test_it_works_while_another_process_holds_the_lock(factory):
    with device_lock(factory.device.storage, 1.0):
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
        ('server = "https://', 'server = "http://', HTTPS_URL),
        (
            'server = "https://',
            'server = "https://h:99999/',
            "expected an https URL",
        ),
        ('server = "https://', 'server = "https://[::1/', HTTPS_URL),
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
    (factory.device.folder / "etc/sota/conf.d/zz-broken.toml").write_text("[[[")
    done = checked(factory)
    assert done.returncode == PROBLEMS
    assert "zz-broken.toml is not TOML" in not_ok(done)[1]
    assert "not asked: import.tls_cacert_path is not known" in done.stdout


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
    path = device.hsm_toml if device.token else device.storage / "pkey.pem"
    path.chmod(0o644)
    done = checked(factory, asked=[GATEWAY])
    levels, text = not_ok(done)
    assert levels == {("warning", "permissions")}
    assert f"{path} " in text
    assert "chmod 600" in text


@pytest.mark.parametrize("mode", [0o704, 0o740, 0o755], ids=oct)
@pytest.mark.parametrize("name", ["var/sota", "var/sota/sota.toml"])
def test_a_storage_folder_or_sota_toml_that_others_may_read_is_warned_of(files, name, mode):
    path = files.device.folder / name
    path.chmod(mode)
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("warning", "permissions")}
    assert f"{path} " in text
    assert "other users have access" in text


@pytest.mark.parametrize(("mode", "level"), [(0o770, "warning"), (0o1777, "problem")])
@pytest.mark.parametrize("name", ["var/sota", f"var/sota/{FOLDER}"])
def test_a_folder_that_others_may_write_to_is_a_problem_where_no_rotation_may_begin(files, name, mode, level):
    path = files.device.folder / name
    path.mkdir(exist_ok=True)
    path.chmod(mode)
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert (level, "permissions") in levels
    files.device.write_request(ID)
    assert (REFUSED if level == "problem" else SWITCHED) == files.device.run().returncode, text


@pytest.mark.parametrize(
    ("mount", "level", "words"),
    [
        ('mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"', "problem", "mounted read-only"),
        (
            'cp -a "$1/." "$2" && mount -t tmpfs -o size=128k none "$1" && cp -a "$2/." "$1"',
            "problem",
            "KiB and [0-9]+ inodes free: free some space",
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
    assert disk_finding(tmp_path)[0] == OK
    assert disk_finding(tmp_path / "missing")[0] == PROBLEM


# Certificate and clock


def test_a_clock_before_the_certificate_is_a_problem(files):
    done = checked(files, environment={"FAKETIME": "-60d", "LD_PRELOAD": FAKETIME})
    assert ("problem", "clock") in not_ok(done)[0]
    assert "but the certificate is valid from" in not_ok(done)[1]


def test_a_clock_that_the_gateway_does_not_share_is_warned_of(files):
    done = checked(files, environment={"FAKETIME": "+1d", "LD_PRELOAD": FAKETIME}, asked=[GATEWAY])
    assert not_ok(done)[0] == {("warning", "clock")}
    assert "24 hours ahead of the device gateway's" in not_ok(done)[1]


@pytest.mark.parametrize(
    ("clock", "level", "words"), [("+320d", "warning", "rotate soon"), ("+340d", "problem", "expired")]
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
    token.device.module = "/nowhere/module.so"
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
    replaced(device.hsm_toml, device.token.pin, "999111")
    for words in ("PinIncorrect", "has refused this PIN before"):
        done = device.run("check", environment=module.environment())
        assert not_ok(done)[0] == {("problem", "token")}
        assert words in not_ok(done)[1]
        assert "999111" not in done.stdout + done.stderr
    assert module.logins == 1


def test_no_pin_in_the_configuration_is_a_problem(token):
    replaced(token.device.hsm_toml, "pass = ", "no_pass = ")
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
    assert "key 08 and certificate 09 are empty or ours" in done.stdout


def test_a_certificate_that_is_not_in_the_token_is_a_problem(token):
    replaced(token.device.sota_toml, 'tls_clientcert_id = "03"', 'tls_clientcert_id = "05"')
    levels, text = not_ok(checked(token, asked=[]))
    assert ("problem", "certificate") in levels
    assert "expected one certificate 05" in text


def test_wrong_usage_is_named(files):
    assert files.device.run("check", "--pin", "1234").returncode == 64
    assert files.device.run("status", "--est-server", "https://a.example").returncode == 64
