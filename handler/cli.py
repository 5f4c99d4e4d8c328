"""The command line: arguments, output, exit statuses. The only module that prints or exits.

| status | meaning |
| --- | --- |
| 0 | done, or nothing to do |
| 1 | a bug |
| 64 | wrong usage |
| 75 | pending: it will be resumed |
| 78 | refused: the request, the configuration or a server's answer has to be changed first |
| 123 | called by fioconfig, and this call switched the key: fioconfig must exit and start anew |
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hsm.errors import TokenError

from . import __version__
from .errors import RenewalError, RequestRefusedError, describe, is_final

if TYPE_CHECKING:
    from .device import Device
    from .request import RotationRequest

DONE, BUG, USAGE, PENDING, REFUSED, SWITCHED = 0, 1, 64, 75, 78, 123
DEFAULT_REQUEST = "/var/run/secrets/fio-rotate-certs"

log = logging.getLogger("renew-client-cert")


@dataclass(frozen=True)
class Settings:
    """Where everything is, from options first, then fioconfig's environment, then the defaults."""

    request_file: Path
    request_named: bool
    search_paths: tuple[Path, ...]
    storage: Path | None
    config_url: str | None
    token_wait: float
    """Seconds that a token that is not there yet is waited for."""

    @classmethod
    def of(cls, options: argparse.Namespace, environment: Mapping[str, str]) -> "Settings":
        """Merge the options with the environment. An empty variable counts as none. Raises RequestRefusedError."""
        from .sota import DEFAULT_SEARCH_PATHS  # noqa: PLC0415

        named = getattr(options, "config_file", None)
        request_file = named or environment.get("CONFIG_FILE") or DEFAULT_REQUEST
        sota = options.sota or environment.get("SOTA_DIR") or ",".join(DEFAULT_SEARCH_PATHS)
        storage = options.storage_dir or environment.get("STORAGE_DIR")
        return cls(
            request_file=Path(request_file),
            request_named=bool(named),
            search_paths=tuple(Path(part.strip()) for part in sota.split(",") if part.strip()),
            storage=Path(storage) if storage else None,
            config_url=environment.get("CONFIG_URL") or None,
            token_wait=_seconds("HSM_WAIT", environment.get("HSM_WAIT") or "0"),
        )


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    # Not (a < b): neither holds for "nan".
    if not 0 <= seconds < float("inf"):
        raise RequestRefusedError(f"{name} in the environment is {text!r}: expected a number of seconds, such as 60")
    return seconds


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _common_options(default: str | None = argparse.SUPPRESS) -> _Parser:
    """Options that stand before a command or behind it: there, only what is given counts."""
    common = _Parser(add_help=False, argument_default=default)
    group = common.add_argument_group("where things are (each over the environment)")
    group.add_argument("--storage-dir", metavar="DIR", help="storage folder [STORAGE_DIR, storage.path]")
    group.add_argument("--sota", metavar="PATH[,PATH]", help="TOML files and folders of the configuration [SOTA_DIR]")
    common.add_argument("-v", "--verbose", action="store_const", const=True, help="say what is done in between")
    return common


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = _Parser(
        prog="renew-client-cert",
        parents=[_common_options(None)],
        description="Rotates the TLS client certificate of this device: new key, EST enrolment, switch, report. "
        "Without a command it is the handler, as fioconfig calls it: it reads the file CONFIG_FILE.",
        epilog="exit status: 0 done or nothing to do, 64 usage, 75 pending (will be resumed), 78 refused, "
        "123 switched (called by fioconfig), 1 a bug",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    rotate = commands.add_parser("rotate", parents=[_common_options()], help="rotate now, by hand")
    asked = rotate.add_argument_group("what is asked (each over the request file)")
    asked.add_argument("--config-file", metavar="FILE", help=f"request file [CONFIG_FILE, {DEFAULT_REQUEST}]")
    asked.add_argument("--est-server", metavar="URL", help="base URL of the EST server [ESTSERVER]")
    asked.add_argument("--rotation-id", metavar="ID", help="tag of its events [ROTATIONID, else certs-<unix time>]")
    asked.add_argument("--pkey-ids", metavar="ID,ID", help="key ids of the token [PKEYIDS]")
    asked.add_argument("--cert-ids", metavar="ID,ID", help="certificate ids of the token [CERTIDS]")
    resume = commands.add_parser("resume", parents=[_common_options()], help="go on with a rotation that stopped")
    resume.add_argument(
        "--offline", action="store_true", help="only make a half-switched device whole, without any network"
    )
    resume.add_argument("--unattended", action="store_true", help="leave a rotation that was refused alone")
    commands.add_parser(
        "abort", parents=[_common_options()], help="give up a pending rotation, if that is possible still"
    )
    commands.add_parser("daemon", parents=[_common_options()], help="finish what is pending, then end (for systemd)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else USAGE
    quiet = logging.INFO if options.command == "daemon" else logging.WARNING
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if options.verbose else quiet, format="%(levelname)s: %(message)s"
    )
    logging.addLevelName(logging.WARNING, "warning")
    logging.addLevelName(logging.INFO, "info")
    for noisy in ("urllib3", "pkcs11"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = Settings.of(options, os.environ)
        if options.command == "daemon":
            return _wait_and_finish(options, settings)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl+C does
        return _run(options, settings)
    except (RenewalError, TokenError, OSError) as error:
        return _explain(error)
    except KeyboardInterrupt:
        _say("interrupted; `renew-client-cert resume` goes on")
        return PENDING


def _wait_and_finish(options: argparse.Namespace, settings: Settings) -> int:
    """Be the daemon, which loads next to nothing: its child, this program anew, does the work."""
    from .daemon import Daemon  # noqa: PLC0415
    from .notify import Notifier  # noqa: PLC0415
    from .sota import SotaConfig  # noqa: PLC0415

    storage = settings.storage or Path(SotaConfig.load(settings.search_paths).require("storage.path"))
    this_program = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]
    places = [f"--storage-dir={storage}", *([f"--sota={options.sota}"] if options.sota else [])]
    Daemon(storage, [*this_program, "resume", "--unattended", *places], Notifier()).run()
    return DONE


def _run(options: argparse.Namespace, settings: Settings) -> int:
    by_fioconfig = options.command is None
    asks = by_fioconfig or options.command == "rotate"
    withdrawn = by_fioconfig and not settings.request_file.exists()
    # Loaded only now, so that --help and a wrong option answer at once.
    from .device import Device  # noqa: PLC0415
    from .http import Limits  # noqa: PLC0415
    from .progress import make_progress  # noqa: PLC0415
    from .rotation import Rotator  # noqa: PLC0415
    from .state import Journal  # noqa: PLC0415
    from .storage import DeviceLock, remove_leftovers  # noqa: PLC0415

    device = Device(settings.search_paths, settings.storage, settings.config_url, token_wait=settings.token_wait)
    if withdrawn and not Journal(device.storage).exists():
        _tell(f"nothing to do: {settings.request_file} is not there, no rotation is asked for")
        return DONE
    request = _request(options, settings, device) if asks and not withdrawn else None
    limits = Limits()
    with DeviceLock(device.storage).acquire(limits.lock_wait):
        for folder in (*device.folders, Journal(device.storage).folder):
            remove_leftovers(folder)
        rotator = Rotator(device, make_progress(), called_by_fioconfig=by_fioconfig, limits=limits)
        try:
            if request is not None:
                if not rotator.rotate(request):
                    _tell(f"nothing to do: rotation {request.rotation_id} is complete already")
            elif withdrawn:
                rotator.withdraw()
            elif options.command == "abort":
                _tell("given up" if rotator.abort() else "nothing to do: no rotation is pending")
            elif options.offline:
                _tell("made whole" if rotator.resume_offline() else "nothing to do without a network")
            elif not rotator.resume(unattended=options.unattended):
                _tell("nothing to do: no rotation is pending")
            status = DONE
        except (RenewalError, TokenError, OSError) as error:
            status = _explain(error)
        finally:
            rotator.close()
        return SWITCHED if by_fioconfig and rotator.switched else status


def _request(options: argparse.Namespace, settings: Settings, device: "Device") -> "RotationRequest":
    from .request import Overrides, read_request  # noqa: PLC0415

    by_hand = options.command == "rotate"
    overrides = Overrides()
    if by_hand:
        overrides = Overrides(options.est_server, options.rotation_id, options.pkey_ids, options.cert_ids)
    if settings.request_named and not settings.request_file.exists():
        raise RequestRefusedError(f"--config-file {settings.request_file}: expected a request file, there is none")
    request = read_request(
        settings.request_file,
        overrides,
        token=device.config.token is not None,
        default_rotation_id=f"certs-{int(time.time())}" if by_hand else None,
    )
    if request is None:
        raise RequestRefusedError(
            f"nothing says where to enrol: expected the request file {settings.request_file}, or the option "
            "--est-server; give one of them"
        )
    return request


def _explain(error: Exception) -> int:
    """Say what ended the call, and give the status for it."""
    if is_final(error):
        _say(f"refused: {describe(error)}")
        return REFUSED
    _say(f"pending: {describe(error)}; `renew-client-cert resume` goes on")
    return PENDING


def _say(text: str) -> None:
    sys.stderr.write(f"renew-client-cert: {text}\n")


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
