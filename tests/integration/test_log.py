"""`log` shows rotations as they were; `--quiet` says nothing but warnings."""

from handler.exit_status import DONE, REFUSED, SWITCHED

from .left_behind import ID, left_after


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
    (failed,) = log_of(files, "CertRotationCompleted")
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
    assert files.device.run("log").stdout == "no rotation was started on this device\n"


def test_a_line_that_a_power_loss_tore_is_passed_over(files):
    files.device.write_request(ID)
    files.device.run()
    history = files.device.storage / "renew-client-cert/history.jsonl"
    history.write_bytes(history.read_bytes()[:-20] + b"\0" * 10)
    done = files.device.run("log")
    assert done.returncode == DONE
    assert "Finalize aktualizr configuration" in done.stdout


def test_a_reason_is_said_once_although_two_events_have_it(files):
    files.device.write_request(ID, estserver="http://est.example")
    assert files.device.run().returncode == REFUSED
    (started,), (completed,) = log_of(files, "CertRotationStarted"), log_of(files, "CertRotationCompleted")
    assert "does not begin with https://" in started[1]
    assert completed == ["failed", "for the same reason"]


# --quiet


def test_quiet_says_nothing_but_warnings(files):
    files.device.write_request(ID)
    done = files.device.run("rotate", "--quiet")
    assert (done.returncode, done.stdout) == (DONE, "")
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
