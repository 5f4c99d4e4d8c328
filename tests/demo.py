"""Two whole rotations of one device, to watch: `python -m tests.demo [--keys token|file]`.

The servers are the tests' simulators on loopback, the handler is called as fioconfig calls it. Ends with status 1 if
anything is not as it should be.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from tests.events import EVENTS
from tests.simulators.device import Device, Identity
from tests.simulators.factory import Factory, running_factory
from tests.simulators.gateway import readable_with
from tests.simulators.https_server import RecordedRequest
from tests.simulators.pki import spki_pem

FIOCONFIG_EXITS = 123
CONNECTIONS_AT_MOST = 5
MINUTES = "%Y-%m-%d %H:%M UTC"
WIDTH = 80
WITHOUT_SYSTEMD = "warning: systemd does not run: "
"""What the handler says of a demo's device: no failure, as no service there has to be restarted."""
SLOW_TOKEN = "waiting for it each time."
"""What it says of a token on a busy machine: no failure either."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and give its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="Two rotations of one device.")
    parser.add_argument("--keys", choices=("token", "file"), default="token", help="where the keys are [token]")
    options = parser.parse_args(arguments)
    if options.keys == "token" and shutil.which("softhsm2-util") is None:
        parser.error("softhsm2-util is not there: install the package softhsm2, or choose --keys file")
    sys.stdout.reconfigure(errors="replace", line_buffering=True)
    with (
        tempfile.TemporaryDirectory(prefix="renew-client-cert-demo-") as folder,
        running_factory(Path(folder) / "device", options.keys) as factory,
    ):
        return 1 if Demo(factory).run() else 0


@dataclass(frozen=True)
class Before:
    """The state before a rotation, to compare with the state after it."""

    identity: Identity
    plaintexts: dict[str, bytes]
    device_files: dict[str, bytes]
    config_time: int
    requests: int
    connections: int
    est_requests: int
    est_connections: int


class Demo:
    """Prints what it does, and collects what is not as it should be."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._device: Device = factory.device
        self._problems: list[str] = []
        self._checks = 0
        self._names: dict[str | None, str] = {}
        self._bold = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")

    def run(self) -> list[str]:
        """Show everything; give what was not as expected."""
        first = self._device.current_identity()
        where = "a SoftHSM token" if self._device.token else "files"
        self._title(f"A device with keys in {where}, and its two servers, on loopback")
        self._name(first, "first")
        self._facts(
            ("device gateway", self._factory.gateway_server.url),
            ("EST server", self._factory.est_server.base_url),
            ("storage", str(self._device.storage)),
        )
        self._show_identity(first)
        self._show_objects(first)
        second = self._rotate("certs-demo-1", "second")
        third = self._rotate("certs-demo-2", "third")
        if self._device.token:
            names = [(each.key, each.certificate_name) for each in (first, second, third)]
            self._check(names == [("01", "03"), ("07", "09"), ("01", "03")], f"the slots swap, and swap back: {names}")
        return self._close([first, second, third])

    # One rotation

    def _rotate(self, rotation_id: str, name: str) -> Identity:
        before = self._before()
        self._title(f"Rotation {rotation_id}: fioconfig calls the handler")
        for line in self._device.write_request(rotation_id).read_text().splitlines():
            print(f"  {line}")
        print()
        status, seconds = self._call_handler()
        after = self._device.current_identity()
        self._name(after, name)
        print(f"\n  exit status {status} after {seconds:.1f} s (123: fioconfig restarts)")

        self._show_events(rotation_id)
        self._show_requests(before)
        self._heading("The device afterwards")
        self._show_identity(after)
        self._show_objects(after)
        self._check(status == FIOCONFIG_EXITS, f"the handler's exit status is {FIOCONFIG_EXITS}: {status}")
        self._check_outcome(rotation_id, before, after)
        return after

    def _call_handler(self) -> tuple[int, float]:
        """Call the handler as fioconfig does; its output comes line by line, prefixed."""
        started = time.monotonic()
        with subprocess.Popen(
            self._device.command(),
            cwd=Path(__file__).resolve().parents[1],
            env=self._device.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as handler:
            for line in handler.stdout:
                self._show(self._as_on_a_device(line.rstrip()), "  | ", "  |   ")
        return handler.returncode, time.monotonic() - started

    def _as_on_a_device(self, line: str) -> str:
        if line.startswith(WITHOUT_SYSTEMD):
            return "(on a device, aktualizr-lite restarts now; there is none here)"
        if line.endswith(SLOW_TOKEN):
            line = line.removeprefix("warning: ")
        return line.replace(str(self._device.folder), "")

    def _before(self) -> Before:
        gateway, est = self._factory.gateway, self._factory.est
        with self._device.private_key() as key:
            device_files = gateway.files_readable_with(key)
        return Before(
            identity=self._device.current_identity(),
            plaintexts=self._device.plaintexts(),
            device_files=device_files,
            config_time=self._device.config_encrypted.stat().st_mtime_ns,
            requests=len(gateway.requests),
            connections=gateway.connections,
            est_requests=len(est.requests),
            est_connections=est.connections,
        )

    def _check_outcome(self, rotation_id: str, before: Before, after: Identity) -> None:
        gateway, device = self._factory.gateway, self._device
        old, new = before.identity, after
        names = gateway.event_names(rotation_id)
        connections = gateway.connections - before.connections + self._factory.est.connections - before.est_connections
        self._check(names == EVENTS, f"all events arrived, in order, as successes: {names}")
        completed = gateway.completed(rotation_id)
        used = {key for event in completed for key in gateway.delivered_with(event)}
        self._check(used == {new.public_key}, "the completion was reported with the new certificate")
        self._check(new.whole and new.public_key != old.public_key, "key and certificate are new and belong together")
        same = new.certificate.subject.public_bytes() == old.certificate.subject.public_bytes()
        self._check(same, "the subject is the same, byte for byte")
        self._check(gateway.current == new.public_key, "the gateway knows the device by its new key")
        self._check(old.public_key in gateway.denied, "the gateway denies the old key")
        self._check(
            self._readable(device.plaintexts, before.plaintexts), "config.encrypted is readable with the new key"
        )
        self._check(
            self._readable(self._server_files, before.device_files),
            "the device's files on the server are readable with the new key",
        )
        kept = device.config_encrypted.stat().st_mtime_ns == before.config_time
        self._check(kept, "config.encrypted kept its modification time")
        self._check(
            connections <= CONNECTIONS_AT_MOST, f"TLS connections: {connections}, at most {CONNECTIONS_AT_MOST}"
        )
        if device.token:
            found = [(each.object_class, each.id, each.label) for each in device.token_objects()]
            expected = [("CERTIFICATE", each, "client") for each in ("03", "09")]
            expected += [(kind, each, "tls") for kind in ("PRIVATE_KEY", "PUBLIC_KEY") for each in ("01", "07")]
            self._check(found == expected, f"the token holds two key pairs and two certificates: {found}")

    def _server_files(self) -> dict[str, bytes]:
        with self._device.private_key() as key:
            return readable_with(key, self._factory.gateway.config_device or {})

    def _readable(self, read: Callable[[], dict[str, bytes]], expected: dict[str, bytes]) -> bool:
        try:
            return read() == expected
        except ValueError:
            return False

    # What is shown

    def _show_identity(self, identity: Identity) -> None:
        certificate = identity.certificate
        config = self._device.encrypted_config()
        locked = sum(bool(entry["Value"]) and not entry["Unencrypted"] for entry in config.values())
        keys = ("p11.tls_pkey_id", "p11.tls_clientcert_id")
        if not self._device.token:
            keys = ("import.tls_pkey_path", "import.tls_clientcert_path")
        self._facts(
            ("sota.toml", f'{keys[0]} = "{self._short(identity.key)}"'),
            ("", f'{keys[1]} = "{self._short(identity.certificate_name)}"'),
            ("certificate", f"{certificate.subject.rfc4514_string()}  ({self._names[identity.public_key]})"),
            ("", f"serial {_serial(certificate)}"),
            ("", f"valid {certificate.not_valid_before_utc:{MINUTES}} to {certificate.not_valid_after_utc:{MINUTES}}"),
            ("configuration", f"{len(config)} files, {locked} of them encrypted to this key"),
        )

    def _show_objects(self, identity: Identity) -> None:
        used = (identity.key, identity.certificate_name)
        if self._device.token:
            rows = [
                (
                    each.object_class.replace("_", " ").lower(),
                    each.id,
                    each.label,
                    _fingerprint(bytes.fromhex(each.value)),
                    _in_use(each.id in used),
                )
                for each in self._device.token_objects()
            ]
            self._heading(f"Token {self._device.token.label}")
            self._table(("object", "id", "label", "fingerprint", ""), rows)
        else:
            rows = [
                (path.name, f"{path.stat().st_mode & 0o777:04o}", _in_use(str(path) in used))
                for path in self._key_files()
            ]
            self._heading("Keys and certificates in the storage folder")
            self._table(("file", "mode", ""), rows)

    def _key_files(self) -> list[Path]:
        return sorted([*self._device.storage.glob("pkey*.pem"), *self._device.storage.glob("client*.pem")])

    def _show_events(self, rotation_id: str) -> None:
        self._heading("Events, as the device gateway recorded them")
        mine = [each for each in self._factory.gateway.events if each["event"]["correlationId"] == rotation_id]
        rows = [
            (
                each["deviceTime"].partition("T")[2],
                "ok" if each["event"]["success"] else "FAILED",
                each["eventType"]["id"] + (f": {each['event']['details']}" if "details" in each["event"] else ""),
            )
            for each in mine
        ]
        self._table(("time", "", "event"), rows)

    def _show_requests(self, before: Before) -> None:
        gateway, est = self._factory.gateway, self._factory.est
        connections = gateway.connections - before.connections, est.connections - before.est_connections
        self._heading(f"Requests: {connections[0]} TLS connections to the gateway, {connections[1]} to the EST server")
        new = [("gateway", each) for each in gateway.requests[before.requests :]]
        new += [("EST", each) for each in est.requests[before.est_requests :]]
        self._table(("server", "TLS", "request", "status", "certificate"), map(self._request_row, new))

    def _request_row(self, entry: tuple[str, RecordedRequest]) -> tuple[str, ...]:
        server, request = entry
        what = f"{request.method} {request.path}"
        return server, f"#{request.connection}", what, str(request.status), self._names.get(request.public_key, "?")

    def _close(self, identities: list[Identity]) -> list[str]:
        gateway = self._factory.gateway
        self._title("Summary")
        if self._problems:
            for problem in self._problems:
                self._show(f"NOT AS EXPECTED: {problem}", "  ", "    ")
            return self._problems
        keys = " -> ".join(self._short(each.key) for each in identities)
        certificates = " -> ".join(self._short(each.certificate_name) for each in identities)
        self._facts(("key", keys), ("certificate", certificates))
        until = identities[-1].certificate.not_valid_after_utc
        print()
        self._show(
            f"Two rotations, {len(gateway.unique_events())} events, "
            f"{gateway.connections + self._factory.est.connections} TLS connections; "
            f"{self._checks} checks, all as expected. The new certificate is valid until {until:{MINUTES}}."
        )
        return []

    # Small parts

    def _name(self, identity: Identity, name: str) -> None:
        self._names.setdefault(spki_pem(identity.certificate.public_key()), name)

    def _check(self, good: bool, what: str) -> None:
        self._checks += 1
        if not good:
            self._problems.append(what)

    def _short(self, name: str) -> str:
        return Path(name).name if "/" in name else name

    def _title(self, text: str) -> None:
        print(f"\n{self._bold[0]}{text}{self._bold[1]}\n{'=' * len(text)}\n")

    def _heading(self, text: str) -> None:
        print(f"\n  {self._bold[0]}{text}{self._bold[1]}\n")

    def _facts(self, *facts: tuple[str, str]) -> None:
        for name, value in facts:
            self._show(value, f"  {name:<14} ", " " * 17)

    def _show(self, text: str, first: str = "  ", then: str = "  ") -> None:
        print(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False))

    def _table(self, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
        lines = [header, *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print(f"    {'  '.join(cells)}".rstrip())


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:040x}"


def _fingerprint(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:12] if value else "-"


def _in_use(used: bool) -> str:
    return "<- in use" if used else ""


if __name__ == "__main__":
    sys.exit(main())
