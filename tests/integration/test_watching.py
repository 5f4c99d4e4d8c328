"""What a fleet's operators read: JSON by its schemas, metrics, exit statuses, trust anchors that end."""

import contextlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from handler.commands.formats.envelope import VERSIONS
from handler.exit_status import ALL_OK, DONE, PENDING, PROBLEMS, REFUSED, SWITCHED, USAGE, WARNINGS
from tests.simulators.pki import FactoryPki, certificate_pem

from .in_process import call
from .looking import look

ID = "certs-watched"
DOCS = Path(__file__).parents[2] / "docs"
(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
LATER = {"status": 503, "headers": {"Retry-After": "3000"}, "times": None}
COMMANDS = {
    "status": ("status", "--json"),
    "check": ("check", "--json"),
    "slots": ("slots", "--json"),
    "log": ("log", "--json"),
    "dry-run": ("rotate", "--dry-run", "--json"),
}


def checked(name, text):
    """Give the object, having held it against its schema."""
    content = json.loads(text)
    schema = json.loads((DOCS / f"schemas/{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema, jsonschema.Draft202012Validator, format_checker=jsonschema.FormatChecker())
    assert text.isascii()
    assert (content["schema"], content["version"]) == (name, VERSIONS[name])
    return content


def every_json(device):
    return {name: checked(name, device.run(*arguments).stdout) for name, arguments in COMMANDS.items()}


def status(factory, **given):
    return checked("status", look(factory, "status", "--json", **given).stdout)


def codes(content):
    return {(each["level"], each["code"]) for each in content["findings"]}


# The schemas


def test_every_json_is_as_its_schema_says_before_in_and_after_a_rotation(factory):
    device = factory.device
    device.write_request(ID)
    assert every_json(device)["dry-run"]["would_rotate"] is True
    factory.gateway.faults.add("PATCH", "/device", **LATER)
    assert device.run().returncode == PENDING
    shown = every_json(device)
    assert shown["status"]["pending"]["waits_for_kind"] == "gateway"
    assert shown["log"]["waits_for"]
    factory.gateway.faults.clear()
    assert device.run("resume").returncode == DONE
    assert every_json(device)["log"]["rotations"][0]["rotation_id"] == ID


@pytest.mark.parametrize("damage", ["no configuration", "broken journal", "token away", "wrong request", "no folder"])
def test_every_json_is_as_its_schema_says_where_something_is_wrong(token, damage):
    device = token.device
    device.write_request(ID, pkeyids="01" if damage == "wrong request" else "01,07")
    if damage == "no configuration":
        device.sota_toml.write_text("[[[")
    if damage == "broken journal":
        (device.storage / "renew-client-cert").mkdir(mode=0o700)
        (device.storage / "renew-client-cert/journal").write_text("junk\n")
    if damage == "no folder":
        device.storage.rename(device.folder / "elsewhere")
    with device.token.away() if damage == "token away" else contextlib.nullcontext():
        shown = {name: device.run(*arguments) for name, arguments in COMMANDS.items()}
    for name, done in shown.items():
        assert "Traceback" not in done.stderr
        if done.stdout:
            checked(name, done.stdout)
        else:
            assert name in {"slots", "log"}
            assert done.returncode in (PENDING, REFUSED)
            assert done.stderr.startswith("renew-client-cert: ")


def test_every_schema_is_documented_with_its_version():
    said = (DOCS / "json.md").read_text()
    for name, version in VERSIONS.items():
        assert re.search(rf"^\| `{name}` \| {version} \|", said, re.MULTILINE), name
    assert {path.stem for path in (DOCS / "schemas").glob("*.json")} == set(VERSIONS)


# The status


def test_a_rotation_that_is_in_use_is_not_pending(files):
    files.device.write_request(ID)
    assert files.device.run().returncode == SWITCHED
    assert status(files)["pending"] is None
    assert status(files)["last_rotation"]["success"] is True


def test_what_is_pending_says_since_when_and_when_it_is_tried_again(files):
    before = datetime.now(UTC) - timedelta(seconds=1)
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", **LATER)
    assert files.device.run().returncode == PENDING
    pending = status(files)["pending"]
    assert before.replace(microsecond=0) <= datetime.fromisoformat(pending["since"]) <= datetime.now(UTC)
    assert datetime.fromisoformat(pending["next_attempt"]) >= datetime.fromisoformat(pending["until"])
    assert pending["attempts"] == 1


@pytest.mark.parametrize(("server", "kind"), [("gone", "unreachable"), ("another", "untrusted"), ("busy", "busy")])
def test_what_is_wrong_with_a_server_is_told_apart(files, server, kind):
    files.device.write_request(ID)
    if server == "gone":
        files.est.faults.add("*", "*", times=None, drop="before")
        files.est.faults.add_connection(times=None, reset=True)
    elif server == "another":
        files.est_server.state.server_identity = FactoryPki().server_identity()
    else:
        files.est.faults.add("POST", "/simplereenroll", times=None, status=503)
    assert call(files.device).status == PENDING
    assert status(files)["pending"]["waits_for_kind"] == kind


def test_an_ended_certificate_is_a_problem(files):
    ended = {"FAKETIME": "+400d", "LD_PRELOAD": FAKETIME}
    done = files.device.run("status", "--json", environment=ended)
    content = checked("status", done.stdout)
    assert done.returncode == REFUSED
    assert "ended" in content["identity"]["problem"]
    assert ("problem", "identity") in codes(content)


def test_the_exit_status_tells_how_the_device_is(files):
    assert files.device.run("status", "--exit-status").returncode == ALL_OK
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", **LATER)
    assert files.device.run().returncode == PENDING
    assert files.device.run("status", "--exit-status").returncode == WARNINGS
    files.gateway.faults.clear()
    files.gateway.faults.add("PATCH", "/device", times=None, status=404)
    assert files.device.run("resume").returncode == REFUSED
    assert files.device.run("status", "--exit-status", "-q").returncode == PROBLEMS


# Metrics


def metrics_of(text):
    families = list(text_string_to_metric_families(text))
    assert [family.type for family in families] == ["gauge"] * len(families)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_the_metrics_are_what_prometheus_reads(factory):
    factory.device.write_request(ID)
    assert factory.device.run("rotate").returncode == DONE
    found = metrics_of(look(factory, "status", "--prometheus").stdout)
    certificate = factory.device.current_identity().certificate
    prefix = "renew_client_cert_"
    assert found[prefix + "certificate_not_after_timestamp_seconds",] == certificate.not_valid_after_utc.timestamp()
    assert found[prefix + "certificate_not_before_timestamp_seconds",] == certificate.not_valid_before_utc.timestamp()
    assert found[prefix + "certificate_loaded",] == found[prefix + "last_rotation_success",] == 1
    assert abs(found[prefix + "last_rotation_timestamp_seconds",] - datetime.now(UTC).timestamp()) < 60
    assert (found[prefix + "undelivered_events",], found[prefix + "rotation_pending",]) == (0, 0)
    anchors = [value for name, value in found.items() if name[0] == prefix + "trust_anchor_not_after_timestamp_seconds"]
    expected = x509.load_pem_x509_certificates((factory.device.storage / "root.crt").read_bytes())
    assert anchors == [each.not_valid_after_utc.timestamp() for each in expected]


def test_the_metrics_of_a_pending_rotation_say_since_when_and_how_often_it_was_tried(files):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", **LATER)
    files.gateway.faults.add("POST", "/events", **LATER)
    assert files.device.run().returncode == PENDING
    found = metrics_of(look(files, "status", "--prometheus").stdout)
    assert found["renew_client_cert_rotation_attempts",] == 1
    assert (
        abs(found["renew_client_cert_rotation_pending_since_timestamp_seconds",] - datetime.now(UTC).timestamp()) < 60
    )
    assert found["renew_client_cert_undelivered_events",] > 0


def test_a_certificate_that_cannot_be_read_is_not_loaded_and_the_rest_is_there(files):
    (files.device.storage / "client.pem").write_text("junk")
    done = files.device.run("status", "--prometheus")
    found = metrics_of(done.stdout)
    assert found["renew_client_cert_certificate_loaded",] == 0
    assert ("renew_client_cert_certificate_not_after_timestamp_seconds",) not in found


def test_a_file_is_replaced_as_a_whole_and_anybody_may_read_it(files, tmp_path):
    target = tmp_path / "renew.prom"
    target.write_text("old")
    held = target.open()
    done = look(files, "status", "--prometheus", f"--output={target}")
    assert (done.returncode, done.stdout) == (DONE, "")
    assert held.read() == "old"
    assert metrics_of(target.read_text())
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.glob("*.prom*")] == ["renew.prom"]


def test_a_file_that_cannot_be_written_is_named(files):
    done = files.device.run("status", "--prometheus", "--output=/nowhere/renew.prom")
    assert done.returncode == PENDING
    assert "/nowhere/renew.prom" in done.stderr
    wrongs = ("status --output=x", "status --json --output=/", "rotate --json", "status --json --prometheus")
    wrongs = (*wrongs, "rotate --dry-run --json --if-due=0.1")  # whether one is due is not in the object
    for wrong in map(str.split, wrongs):
        assert files.device.run(*wrong).returncode == USAGE


def test_the_alert_rules_use_metrics_that_exist(files):
    said = (DOCS / "monitoring.md").read_text()
    (rules,) = re.findall(r"```yaml\n(groups:.*?)```", said, re.DOTALL)
    exist = {name for name, *_ in metrics_of(files.device.run("status", "--prometheus").stdout)}
    exist |= set(re.findall(r"^\| `(renew_client_cert_\w+)`", said, re.MULTILINE))
    for rule in yaml.safe_load(rules)["groups"][0]["rules"]:
        used = set(re.findall(r"renew_client_cert_\w+", rule["expr"]))
        assert used <= exist, rule["alert"]
        assert used
        assert rule["annotations"]["summary"]


# Trust anchors


@pytest.mark.parametrize(
    ("ends", "words"), [(80, "in 79 days"), (200, "before the device's certificate"), (-1, "have expired"), (800, None)]
)
def test_a_trust_anchor_that_ends_soon_or_before_the_certificate_is_warned_of(files, ends, words):
    anchor = files.pki.authority("Ends", ends=datetime.now(UTC) + timedelta(days=ends)).certificate
    trusted = files.device.storage / "root.crt"
    trusted.write_bytes(trusted.read_bytes() + certificate_pem(anchor))
    lines = [each for each in files.device.run("check", "-q").stdout.splitlines() if " CA file " in each]
    assert bool(lines) == bool(words)
    assert all(words in line for line in lines)
    assert (("warning", "trust-anchor") in codes(status(files))) == bool(words)


def test_a_root_of_cacerts_beside_a_known_one_that_the_device_does_not_trust_is_warned_of(files):
    other = FactoryPki().server_root.certificate
    files.est.cacerts = [files.pki.server_root.certificate, other]
    done = files.device.run("check", "-q", f"--est-server={files.device.est_url}")
    assert (
        f"the root {other.subject.rfc4514_string()}, which this device does not trust: add it to import.tls_cacert_path"
        in done.stdout
    )
    trusted = files.device.storage / "root.crt"
    trusted.write_bytes(trusted.read_bytes() + certificate_pem(other))
    done = files.device.run("check", "-q", f"--est-server={files.device.est_url}")
    assert "does not trust" not in done.stdout
