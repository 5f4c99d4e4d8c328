"""What a field engineer reads on a serial console of 80 columns: once, by name, and with what to do next."""

from handler.exit_status import PENDING
from tests.simulators.pki import FactoryPki
from tests.terminal import on_terminal

ID = "certs-field"


def test_a_server_that_is_not_trusted_takes_two_lines(files):
    files.device.write_request(ID)
    files.est_server.state.server_identity = FactoryPki().server_identity()
    shown = on_terminal(files.device, "rotate")
    assert shown.status == PENDING
    (at,) = [number for number, line in enumerate(shown.lines) if "failed, " in line]
    reason = [line for line in shown.lines if line.startswith("      ")]
    assert len(reason) <= 2
    assert " ".join(map(str.strip, reason)).endswith("that no CA in import.tls_cacert_path issued")
    assert shown.text.count("tls_cacert_path") == 1
    assert shown.lines[-1] == "renew-client-cert: pending; `renew-client-cert resume` goes on"
    assert at + len(reason) + 1 == len(shown.lines) - 1


def test_each_message_about_a_server_says_which_one_and_what_was_asked(files):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", status=503, headers={"Retry-After": "3000"})
    files.gateway.faults.add("POST", "/events", times=None, drop="before")
    done = files.device.run("rotate", "-v")
    assert done.returncode == PENDING
    gateway = files.gateway_server.url.removeprefix("https://")
    assert f"pending: device gateway {gateway}: PATCH /device answered HTTP 503; " in done.stderr
    assert f"device gateway {gateway}: POST /events: " in done.stderr
    est = files.est_server.url.removeprefix("https://")
    assert f"EST server {est}: POST /simplereenroll: HTTP 201" in done.stderr
