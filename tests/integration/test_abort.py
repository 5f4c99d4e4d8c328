"""What a person asks beside a rotation: a dry run, a rotation that is due, giving one up, the history, silence."""

import json
import re
from pathlib import Path

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import read_pending
from handler.journal.snapshot import View
from tests.invariants import broken_files, broken_invariants
from tests.simulators.factory import running_factory

from .flagged_token import COUNT_LOW, FlaggedToken
from .in_process import call

ID = "certs-hand"
(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def left_after(factory, method, path, status=503):
    """Leave a rotation that stopped at a request: with 75, or refused."""
    factory.device.write_request(ID)
    headers = {"Retry-After": "3000"} if status == 503 else {}
    server = factory.est if path == "/simplereenroll" else factory.gateway
    skip = int(path == "/config-device")  # looked at once before the gateway is told anything
    server.faults.add(method, path, times=None, skip=skip, status=status, headers=headers)
    done = factory.device.run()
    server.faults.clear()
    assert done.returncode in (PENDING, REFUSED, SWITCHED), done.stderr
    return done


def read_state(device):
    """Give the rotation that is pending."""
    return View.of(device.storage).rotation


# rotate --dry-run


def test_a_dry_run_names_slots_files_and_requests_and_touches_nothing(factory):
    device = factory.device
    device.write_request(ID)
    before = device.snapshot()
    done = device.run("rotate", "--dry-run")
    assert done.returncode == DONE, done.stderr
    assert device.snapshot() == before
    assert factory.gateway.requests == factory.est.requests == []
    for named in (
        ID,
        f"{device.est_url}/simplereenroll",
        str(device.sota_toml),
        "/device",
        "/config-device",
        "/events",
        "make a P-256 key as ",
    ):
        assert named in done.stdout
    assert ("01 -> 07" in done.stdout) == bool(device.token)
    assert ("03 -> 09" in done.stdout) == bool(device.token)


def test_a_dry_run_says_what_the_rotation_would_be_refused_for(token):
    token.device.write_request(ID, pkeyids="01,1")
    before = token.device.snapshot()
    done = token.device.run("rotate", "--dry-run")
    assert done.returncode == REFUSED
    assert "PKEYIDS" in done.stderr
    assert token.device.snapshot() == before
    assert token.gateway.requests == []


def test_a_dry_run_and_a_look_at_the_date_put_no_pin_at_risk(token, tmp_path):
    module = FlaggedToken(token.device, tmp_path)
    for arguments in (["--dry-run"], ["--if-due=0.1"]):
        done = token.device.run(
            "rotate", *arguments, f"--est-server={token.device.est_url}", environment=module.environment(COUNT_LOW)
        )
        assert done.returncode == (REFUSED if arguments == ["--dry-run"] else DONE), done.stderr
    assert module.logins == 0


def test_a_dry_run_is_refused_where_the_rotation_would_be(files):
    done = files.device.run("rotate", "--dry-run", f"--est-server={files.device.est_url}", "--storage-dir=/nowhere")
    assert (done.returncode, "/nowhere cannot be opened" in done.stderr) == (REFUSED, True)


def test_a_dry_run_tells_of_a_rotation_that_is_pending_or_complete(files):
    left_after(files, "PATCH", "/device")
    before = files.device.snapshot()
    assert "is pending after step 1" in files.device.run("rotate", "--dry-run").stdout
    assert files.device.snapshot() == before
    assert files.device.run("resume").returncode == DONE
    assert "complete already" in files.device.run("rotate", "--dry-run").stdout


NEXT = "certs-next"


def dry_run(factory):
    """Ask what another rotation would do; no server is asked, and nothing is touched."""
    device = factory.device
    device.write_request(NEXT)
    before, requests = device.snapshot(), len(factory.gateway.requests) + len(factory.est.requests)
    done = device.run("rotate", "--dry-run")
    assert done.returncode == DONE, done.stderr
    assert device.snapshot() == before
    assert len(factory.gateway.requests) + len(factory.est.requests) == requests
    return done.stdout


def test_a_dry_run_drops_a_rotation_of_which_the_gateway_knows_nothing(token):
    left_after(token, "POST", "/simplereenroll")
    first, *lines = dry_run(token).splitlines()
    assert first == f"rotation {ID} is pending after step 0: it would be dropped first, its new key too"
    assert "        p11.tls_pkey_id: 01 -> 07" in lines


@pytest.mark.parametrize(
    ("method", "path", "step"), [("GET", "/config-device", 3), ("PATCH", "/config", 3), ("POST", "/events", 5)]
)
def test_a_dry_run_names_no_slots_before_a_rotation_that_would_be_finished_first(factory, method, path, step):
    left_after(factory, method, path)
    new = read_state(factory.device).new
    (line,) = dry_run(factory).splitlines()
    assert line == (
        f"rotation {ID} is pending after step {step} and would be finished first: key {new.key} and certificate "
        f"{new.certificate} are in use then. Then {NEXT} would begin: ask again when that is done"
    )


def test_a_dry_run_goes_from_the_slots_that_a_rotation_switched_to(token):
    token.device.write_request(ID)
    assert token.device.run().returncode == SWITCHED
    first, *lines = dry_run(token).splitlines()
    assert first == f"rotation {ID} is in use: what is left of it would be tidied up first"
    assert "        p11.tls_pkey_id: 07 -> 01" in lines
    assert "        p11.tls_clientcert_id: 09 -> 03" in lines


def test_a_dry_run_tells_of_a_rotation_that_is_asked_for_only(files):
    files.device.write_request(ID)
    files.device.run(environment={"FAKETIME": "-400d", "LD_PRELOAD": FAKETIME})
    assert dry_run(files).startswith(f"rotation {ID} is asked for, not begun: this one takes its place\n")


@pytest.mark.parametrize("content", ["{", None], ids=["broken", "fioconfig's"])
def test_a_dry_run_goes_no_further_than_to_what_is_not_known(files, content):
    folder = files.device.storage / "renew-client-cert"
    folder.mkdir(mode=0o700)
    if content is None:
        (files.device.storage / "cert-rotation.state").write_text("{}")
    else:
        (folder / "rotation.json").write_text(content)
    (line,) = dry_run(files).splitlines()
    assert line.endswith(f" Then {NEXT} would begin: ask again when that is done")


# rotate --if-due


def test_a_rotation_is_not_begun_where_it_is_not_due(factory):
    before = factory.device.snapshot()
    done = if_due(factory, "+100d")
    assert done.stdout.startswith("nothing to do: 64% of the certificate's life is left (until ")
    assert factory.device.snapshot() == before
    assert factory.est.requests == factory.gateway.requests == []


def test_a_rotation_is_begun_and_done_where_it_is_due(factory):
    identity = factory.device.current_identity()
    done = if_due(factory, "+300d")
    assert re.search(r"^rotation certs-[0-9]+-[0-9a-f]{6} complete$", done.stdout, re.MULTILINE)
    assert factory.device.current_identity().public_key == factory.gateway.current != identity.public_key
    assert factory.gateway.events[-1]["event"]["success"]


def if_due(factory, clock):
    """Ask for a rotation where less than a third is left of a certificate that began a month ago, for a year."""
    environment = {"FAKETIME": clock, "LD_PRELOAD": FAKETIME}
    done = factory.device.run(
        "rotate", "--if-due", "0.33", "--est-server", factory.device.est_url, environment=environment
    )
    assert done.returncode == DONE, done.stderr
    return done


def test_a_rotation_that_is_due_gets_an_id_of_its_own(files):
    files.device.write_request("certs-asked-long-ago")
    assert files.device.run("rotate", "--if-due", "0.999999999").returncode == DONE
    assert {each["event"]["correlationId"] for each in files.gateway.events} != {"certs-asked-long-ago"}
    assert len(files.gateway.event_names()) == 7


def test_what_fioconfig_asks_for_is_not_done_again_after_a_rotation_by_hand(files):
    """At each boot it calls with the id of its file, which is not the last one any more."""
    files.device.write_request(ID)
    assert files.device.run().returncode == SWITCHED
    assert files.device.run("rotate", "--rotation-id", "certs-by-hand").returncode == DONE
    identity, asked = files.device.current_identity(), len(files.gateway.requests)
    done = files.device.run()
    assert (done.returncode, done.stdout) == (DONE, f"nothing to do: rotation {ID} is complete already\n")
    assert (files.device.current_identity(), len(files.gateway.requests)) == (identity, asked)


def test_a_rotation_that_is_pending_is_left_to_the_daemon(files):
    left_after(files, "PATCH", "/device")
    asked = len(files.gateway.requests)
    done = files.device.run("rotate", "--if-due", "0.999999999")
    assert done.returncode == DONE
    assert f"{ID} is pending already" in done.stdout
    assert len(files.gateway.requests) == asked


def test_one_that_was_refused_is_tried_again_where_nobody_else_would_look(files):
    left_after(files, "PATCH", "/config", status=403)
    done = files.device.run("resume", "--unattended")
    assert (done.returncode, "was refused" in done.stdout) == (DONE, True)
    before = files.device.snapshot()
    done = files.device.run("rotate", "--dry-run", "--if-due=0.33", f"--est-server={files.device.est_url}")
    assert (done.returncode, "would be tried again" in done.stdout) == (DONE, True)
    assert files.device.snapshot() == before
    assert files.device.run("rotate", "--if-due=0.33", f"--est-server={files.device.est_url}").returncode == DONE
    assert files.gateway.completed(ID)[-1]["event"]["success"]
    assert broken_invariants(files, ID, completed=True) == []


def test_what_is_wrong_with_the_request_is_said_before_it_is_due(files):
    for arguments in ([], ["--est-server=http://plain.example"]):
        assert files.device.run("rotate", "--if-due=0.33", *arguments).returncode == REFUSED


def test_the_same_by_hand_again_goes_on_with_the_one_that_is_pending(files):
    files.gateway.faults.add("PATCH", "/device", times=None, status=503, headers={"Retry-After": "3000"})
    by_hand = ["rotate", f"--est-server={files.device.est_url}"]
    assert [files.device.run(*by_hand).returncode for _ in range(2)] == [PENDING, PENDING]
    files.gateway.faults.clear()
    assert files.device.run(*by_hand).returncode == DONE
    assert len(files.est.csrs) == 1


@pytest.mark.parametrize("share", ["0", "1", "a third", "-0.5", "nan"])
def test_a_share_that_is_none_is_wrong_usage(files, share):
    done = files.device.run("rotate", f"--if-due={share}")
    assert done.returncode == 64
    assert "--if-due" in done.stderr


# abort


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/simplereenroll"),
        ("PATCH", "/device"),
        ("GET", "/config-device"),
        ("PATCH", "/config"),
    ],
)
def test_a_rotation_is_given_up_before_the_point_of_no_return(factory, method, path):
    device = factory.device
    identity = device.current_identity()
    left_after(factory, method, path)
    done = device.run("abort")
    assert done.returncode == DONE, done.stderr
    assert "given up" in done.stdout
    assert device.current_identity() == identity
    (end,) = factory.gateway.completed(ID)
    assert end["event"]["success"] is False
    assert "given up by hand" in end["event"]["details"]
    assert read_pending(device.storage) is None
    if device.token:
        assert sorted(each.id for each in device.token_objects()) == ["01", "01", "03"]
    else:
        assert len(device.private_key_files()) == 1
    # The same request runs again: giving up is not completing.
    assert device.run().returncode == SWITCHED
    assert device.run("resume").returncode == DONE
    assert device.current_identity().public_key == factory.gateway.current


def test_a_rotation_that_is_switched_but_not_proved_goes_back(factory):
    device = factory.device
    identity = device.current_identity()
    device.write_request(ID)
    fault = factory.gateway.faults.add("POST", "/events", times=None, status=503, headers={"Retry-After": "3000"})
    assert device.run().returncode == SWITCHED
    assert fault.used
    assert device.current_identity() != identity
    factory.gateway.faults.clear()
    done = device.run("abort")
    assert done.returncode == DONE, done.stderr
    assert device.current_identity() == identity
    assert broken_invariants(factory, ID, completed=False) == []


def test_past_the_point_of_no_return_it_is_explained_why_not(factory):
    factory.device.write_request(ID)
    assert factory.device.run().returncode == SWITCHED  # tidying up is pending
    before = factory.device.snapshot()
    done = factory.device.run("abort")
    assert done.returncode == REFUSED
    assert "point of no return" in done.stderr
    assert "resume" in done.stderr
    assert factory.device.snapshot() == before


def test_a_rotation_whose_proof_was_taken_without_an_answer_cannot_be_given_up(factory):
    device = factory.device
    device.write_request(ID)
    factory.gateway.faults.add("POST", "/events", skip=1, times=None, drop="after")
    assert call(device).status == SWITCHED
    assert factory.gateway.current == device.current_identity().public_key
    factory.gateway.faults.clear()
    done = device.run("abort")
    assert done.returncode == REFUSED, done.stdout
    assert "past the point of no return: the gateway refuses the old certificate" in done.stderr
    assert device.run("resume").returncode == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def test_giving_up_is_not_forgotten_while_the_gateway_cannot_be_asked(factory):
    identity = factory.device.current_identity()
    left_after(factory, "PATCH", "/config")
    factory.device.request_file.unlink()
    factory.gateway.faults.add("GET", "/config-device", times=None, status=503, headers={"Retry-After": "3000"})
    done = factory.device.run("abort")
    assert done.returncode == PENDING
    assert "noted, and given up as soon as that can be" in done.stderr
    factory.gateway.faults.clear()
    assert "goes back to the old identity (given up by hand)" in factory.device.run("status").stdout
    assert json.loads(factory.device.run("status", "--json").stdout)["pending"]["rollback"] == "given up by hand"
    assert "would be rolled back first" in factory.device.run("rotate", "--dry-run", "--est-server=https://e").stdout
    done = factory.device.run("resume")
    assert done.returncode == DONE, done.stderr
    assert "rolled back, given up by hand" in done.stderr
    assert factory.device.current_identity() == identity
    assert broken_files(factory) == []
    assert read_pending(factory.device.storage) is None
    assert [each["event"]["success"] for each in factory.gateway.completed(ID)] == [False]


def test_who_gives_up_is_told_that_the_request_is_still_there(files):
    left_after(files, "PATCH", "/device")
    done = files.device.run("abort")
    assert (done.returncode, f"{files.device.request_file} still asks for a rotation" in done.stdout) == (DONE, True)


@pytest.mark.parametrize("rolled_back", [False, True])
@pytest.mark.parametrize("command", ["abort", "resume"])
def test_an_identity_that_somebody_else_put_there_is_not_touched(files, command, rolled_back):
    """Registered anew while a rotation was pending: the old identity of that rotation is nothing to return to."""
    left_after(files, "PATCH", "/config")
    device, state = files.device, files.device.storage / "renew-client-cert/rotation.json"
    if rolled_back:
        journal = json.loads(state.read_text())
        journal["rotation"]["rollback"] = "the gateway refused the new certificate"
        state.write_text(json.dumps(journal))
    for name in ("pkey", "client"):
        (device.storage / f"{name}.other.pem").write_bytes((device.storage / f"{name}.pem").read_bytes())
        text = device.sota_toml.read_text()
        device.sota_toml.write_text(text.replace(f"{name}.pem", f"{name}.other.pem"))
    before = device.sota_toml.read_bytes()
    done = device.run(command)
    assert done.returncode == (DONE if command == "abort" else REFUSED), done.stderr
    assert "somebody else changed it" in done.stderr
    assert device.sota_toml.read_bytes() == before
    assert read_pending(device.storage) is None
    assert (device.storage / "pkey.pem").exists()
    assert len(device.private_key_files()) == 2
    assert broken_files(files) == []


def moved(factory):
    """Have sota.toml name copies of the identity that it names."""
    device = factory.device
    names = device.current_identity()
    for number, name in enumerate((names.key, names.certificate_name)):
        copy = device.storage / f"copy-{number}.pem"
        copy.write_bytes(Path(name).read_bytes())
        device.sota_toml.write_text(device.sota_toml.read_text().replace(name, str(copy)))


@pytest.mark.parametrize("place", ["POST /events", "moved already"])
def test_what_only_the_new_key_reads_is_moved_to_the_key_that_somebody_else_put_there(files, place):
    """Somebody has moved the identity in use to other files: the key that goes is the only one that reads anything."""
    if place == "moved already":  # the files on the server, and the answer to that was lost
        files.gateway.faults.add("PATCH", "/config", times=None, drop="after")
    else:  # switched, and not proved
        files.gateway.faults.add("POST", "/events", times=None, status=503)
    files.device.write_request(ID)
    assert call(files.device).status in (PENDING, SWITCHED)
    files.gateway.faults.clear()
    identity = files.device.current_identity()
    moved(files)
    done = files.device.run("resume")
    assert (done.returncode, "somebody else changed it" in done.stderr) == (REFUSED, True)
    assert files.device.current_identity().public_key == identity.public_key
    assert broken_files(files) == []
    assert read_pending(files.device.storage) is None
    # fioconfig calls again when it starts.
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert broken_files(files) == []


def test_an_identity_that_is_named_wrong_ends_no_rotation(files):
    files.gateway.faults.add("PATCH", "/config", times=None, drop="after")
    files.device.write_request(ID)
    assert call(files.device).status == PENDING
    files.gateway.faults.clear()
    right = files.device.sota_toml.read_text()
    files.device.sota_toml.write_text(right.replace("pkey.pem", "pkye.pem"))
    before = files.device.snapshot()
    for command in ("resume", "abort"):
        done = files.device.run(command)
        assert (done.returncode, "pkye.pem cannot be read" in done.stderr) == (REFUSED, True)
        assert files.device.snapshot() == before
    files.device.sota_toml.write_text(right)
    assert files.device.run("resume").returncode == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("command", ["resume", "abort"])
def test_the_new_key_is_kept_where_the_gateway_does_not_take_who_is_named_now(files, command):
    """Whoever has the right identity in use later gets the files with it; no later rotation is held up meanwhile."""
    files.gateway.faults.add("PATCH", "/config", times=None, drop="after")
    files.device.write_request(ID)
    assert call(files.device).status == PENDING
    files.gateway.faults.clear()
    keys = files.device.private_key_files()
    right = files.device.sota_toml.read_text()
    moved(files)
    files.gateway.faults.add("GET", "/config-device", times=None, status=403)
    done = files.device.run(command)
    assert (done.returncode, "is kept, as files on the server" in done.stderr) in ((REFUSED, True), (DONE, True))
    assert set(keys) < set(files.device.private_key_files())
    files.gateway.faults.clear()
    assert "what it has left is looked at" in files.device.run("status").stdout
    files.device.sota_toml.write_text(right)
    for number in range(2):
        (files.device.storage / f"copy-{number}.pem").unlink()
    done = files.device.run("resume")
    assert (done.returncode, "had left values to another key" in done.stderr) == (DONE, True)
    assert broken_files(files) == []
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert len(files.device.private_key_files()) == 2
    assert broken_files(files) == []


def test_a_device_that_moved_into_a_token_meanwhile_keeps_its_files_readable(files, tmp_path):
    left_after(files, "PATCH", "/config")
    with running_factory(tmp_path / "other", "token") as other:
        old = files.device.private_key_files()
        hsm = "usr/lib/sota/conf.d/40-hsm.toml"
        (files.device.folder / hsm).write_bytes((other.device.folder / hsm).read_bytes())
        text = files.device.sota_toml.read_text().replace('source = "file"', 'source = "pkcs11"')
        text = text.replace('ca_source = "pkcs11"', 'ca_source = "file"')
        files.device.sota_toml.write_text(text + '\n[p11]\ntls_pkey_id = "01"\ntls_clientcert_id = "03"\n')
        done = files.device.run("resume", environment=other.device.token.environment)
        assert (done.returncode, "somebody else changed it" in done.stderr) == (REFUSED, True)
        # The gateway does not know this identity yet, so the key of the rotation is kept for what it may read.
        assert "is kept, as files on the server" in done.stderr
        assert files.device.private_key_files() == old


@pytest.mark.parametrize("how", ["links", "hard links", "another spelling"])
@pytest.mark.parametrize("moment", ["POST /events", "tidying up"])
def test_another_name_of_the_new_files_is_no_other_identity(files, how, moment):
    """The files themselves may not be touched, whatever leads to them."""
    device = files.device
    device.write_request(ID)
    if moment == "POST /events":
        files.gateway.faults.add("POST", "/events", times=None, status=503)
    assert call(device).status == SWITCHED
    files.gateway.faults.clear()
    identity = device.current_identity()
    (device.folder / "same").symlink_to(device.storage)
    for number, name in enumerate((identity.key, identity.certificate_name)):
        other = device.storage / f"link-{number}.pem"
        if how == "links":
            other.symlink_to(name)
        elif how == "hard links":
            other.hardlink_to(name)
        else:
            other = device.folder / "same" / Path(name).name
        device.sota_toml.write_text(device.sota_toml.read_text().replace(name, str(other)))
    done = device.run("resume")
    assert done.returncode == DONE, done.stderr
    assert device.current_identity().public_key == identity.public_key == files.gateway.current
    assert [each["event"]["success"] for each in files.gateway.completed(ID)] == [True]
    assert broken_files(files) == []
    device.write_request("certs-next")
    assert call(device).status == SWITCHED
    assert call(device, "resume").status == DONE
    assert device.current_identity().public_key == files.gateway.current
    assert broken_files(files) == []


@pytest.mark.parametrize("status", [403, 404])
def test_giving_up_what_nobody_was_told_of_asks_nobody(tmp_path, status):
    with running_factory(tmp_path / "device", "token") as factory:
        left_after(factory, "POST", "/simplereenroll")
        with factory.device.token.away():
            assert factory.device.run("abort").returncode == PENDING
        factory.gateway.faults.add("GET", "/config-device", times=None, status=status)
        assert factory.device.run("resume").returncode == DONE
        assert read_pending(factory.device.storage) is None


def test_giving_up_is_not_forgotten_while_the_token_is_away(tmp_path):
    with running_factory(tmp_path / "device", "token") as factory:
        identity = factory.device.current_identity()
        left_after(factory, "POST", "/simplereenroll")
        with factory.device.token.away():
            done = factory.device.run("abort")
            assert done.returncode == PENDING
            assert "noted, and given up as soon as that can be" in done.stderr
            assert read_pending(factory.device.storage).waiting.kind == "token"
        done = factory.device.run("resume")
        assert done.returncode == DONE, done.stderr
        assert "rolled back, given up by hand" in done.stderr
        assert factory.device.current_identity() == identity
        assert sorted(each.id for each in factory.device.token_objects()) == ["01", "01", "03"]


def test_without_anything_pending_there_is_nothing_to_give_up(files):
    before = files.device.snapshot()
    done = files.device.run("abort")
    assert (done.returncode, done.stdout) == (DONE, "nothing to do: no rotation is pending\n")
    assert files.device.snapshot() == before


# Events that the gateway does not take


def test_events_that_are_not_delivered_are_a_warning_and_leave_the_call_pending(factory):
    device = factory.device
    left_after(factory, "PATCH", "/device")
    factory.gateway.faults.add("POST", "/events", times=None, status=503, headers={"Retry-After": "3000"}, body="later")
    done = device.run("abort")
    waiting = read_pending(device.storage).undelivered
    assert waiting
    for command in ("resume", "abort"):
        assert done.returncode == PENDING, done.stdout
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"warning: not delivered yet: {waiting} event")
        assert ": POST /events: " in line
        assert "HTTP 503: later" in line
        assert line.endswith("; `renew-client-cert resume` goes on")
        done = device.run(command)
    assert device.run("resume", "--offline").returncode == DONE
    factory.gateway.faults.clear()
    done = device.run("resume")
    assert (done.returncode, done.stderr) == (DONE, "")
    assert re.fullmatch(rf"delivered: {waiting} events?\n", done.stdout)
    assert len(factory.gateway.completed(ID)) == 1


# log


def test_the_log_shows_rotations_as_a_timeline(files):
    left_after(files, "POST", "/simplereenroll")
    assert files.device.run("resume").returncode == DONE
    files.device.write_request("certs-next")
    assert files.device.run().returncode == SWITCHED
    done = files.device.run("log")
    assert done.returncode == DONE
    lines = done.stdout.splitlines()
    assert [each for each in lines if each.startswith("rotation ")] == [f"rotation {ID}", "rotation certs-next"]
    assert len([each for each in lines if each.endswith("  ok")]) == 14
    (failed,) = [number for number, each in enumerate(lines) if each.endswith("  failed")]
    assert "Generate new certificate" in lines[failed]
    assert "HTTP 503" in lines[failed + 1]


def test_the_log_tells_what_the_gateway_does_not_know(files):
    left_after(files, "POST", "/events")
    (end,) = log_of(files, "CertRotationCompleted")
    assert end == ["ok", "not delivered yet"]
    assert files.device.run("abort").returncode == DONE
    (taken_back, failed) = log_of(files, "CertRotationCompleted")
    assert taken_back == ["ok", "taken back: the gateway did not take the new certificate"]
    assert failed == ["failed", "rolled back, given up by hand"]
    assert files.device.run().returncode == SWITCHED
    assert log_of(files, "CertRotationCompleted")[-1][0] == "ok"


def log_of(factory, event):
    """Give the end of each such event in the log, and the line below it."""
    lines = factory.device.run("log").stdout.splitlines()
    at = [number for number, line in enumerate(lines) if event in line]
    return [[lines[each].split()[-1], *(line.strip() for line in lines[each + 1 : each + 2])] for each in at]


def test_the_log_says_what_is_waited_for(files):
    left_after(files, "POST", "/simplereenroll")
    assert files.device.run("log").stdout.splitlines()[-1].startswith("pending: ")


def test_without_any_rotation_the_log_says_so(files):
    assert files.device.run("log").stdout == "no rotation has been begun on this device\n"


def test_a_line_that_a_power_loss_tore_is_passed_over(files):
    files.device.write_request(ID)
    files.device.run()
    history = files.device.storage / "renew-client-cert/history.jsonl"
    history.write_bytes(history.read_bytes()[:-20] + b"\0" * 10)
    done = files.device.run("log")
    assert done.returncode == DONE
    assert "Finalize aktualizr configuration" in done.stdout


# --quiet


def test_quiet_says_nothing_but_warnings(files):
    files.device.write_request(ID)
    done = files.device.run("rotate", "--quiet")
    assert (done.returncode, done.stdout) == (DONE, "")
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
