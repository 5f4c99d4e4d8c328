"""The command line's arguments."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from handler import __version__
from handler.backoff import MAX_ASKED
from handler.exit_status import USAGE

from .settings import DEFAULT_REQUEST
from .terminal import Console


def _number(expected: str, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    """Return a function that reads a number."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if accepts(number := float(text)):
                return number
        raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")

    return read


_SHARE = _number("a share of a certificate's lifetime, such as 0.33", lambda share: 0 < share < 1)
_COUNT = _number("a number of rotations, such as 3", lambda count: count > 0 and count.is_integer())
_DELAY = _number("seconds, up to a day", lambda seconds: 0 < seconds <= MAX_ASKED)


class _Parser(argparse.ArgumentParser):
    does = ""
    """What the command does."""
    example = ""

    def format_help(self) -> str:
        """Begin with what the command does and an example; then usage and options."""
        formatter = self._get_formatter()
        formatter.add_text(self.does)
        return f"{formatter.format_help()}\n    renew-client-cert {self.example}\n\n{super().format_help()}"

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        from .table import hanging  # noqa: PLC0415 - the daemon does without

        lines = hanging(f"{self.prog}: ", f"{message}; see {self.prog} --help", Console.of(sys.stderr).width)
        self.exit(USAGE, "".join(f"{line}\n" for line in lines))


def _common_options(default: str | None = argparse.SUPPRESS) -> _Parser:
    """Return the options that may precede or follow a command; after it, only given ones count."""
    common = _Parser(add_help=False, argument_default=default)
    group = common.add_argument_group("locations (each overrides the environment)")
    group.add_argument("--storage-dir", metavar="DIR", help="storage folder [STORAGE_DIR, storage.path]")
    group.add_argument("--sota", metavar="PATH[,PATH]", help="TOML files and folders of the configuration [SOTA_DIR]")
    common.add_argument(
        "-v", "--verbose", action="store_const", const=True, help="show more: versions, files, each request to a server"
    )
    quiet = "print only warnings and errors; check: only what is not ok"
    common.add_argument("-q", "--quiet", action="store_const", const=True, help=quiet)
    return common


def parse(arguments: Sequence[str] | None, *, by_fioconfig: bool) -> argparse.Namespace:
    """Parse the command line (None: of this process). Raises SystemExit after a message."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    given = vars(options)
    if options.command is None and not by_fioconfig:
        parser.error("expected a command: `renew-client-cert rotate` rotates by hand")
    if given.get("output") and not (options.json or options.prometheus):
        options.parser.error("--output needs --json or --prometheus")
    if os.path.isdir(given.get("output") or ""):  # noqa: PTH112
        options.parser.error(f"argument --output: {options.output!r}: expected a file, found a folder")
    if options.command == "rotate" and options.json and (options.if_due or not options.dry_run):
        options.parser.error("--json needs --dry-run, and does not go with --if-due")
    return options


def make_parser() -> _Parser:
    """Describe the command line."""
    parser = _Parser(
        prog="renew-client-cert",
        parents=[_common_options(None)],
        epilog="exit status: 0 done or nothing to do, 64 wrong usage, 75 pending (will be resumed), 78 refused, "
        "123 switched (called by fioconfig), 1 a bug; check and status --exit-status: 1 warnings, 2 problems",
    )
    parser.does = (
        "Rotate the TLS client certificate of this device: new key, EST enrolment, switch, report. "
        "Without a command, this is the handler that fioconfig calls with the request in CONFIG_FILE."
    )
    parser.example = "status"
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", parser_class=_Parser)
    common = _common_options()
    for name, (does, example, *groups) in _COMMANDS.items():
        command = commands.add_parser(name, parents=[common], help=does.partition(". ")[0].rstrip("."))
        command.does, command.example = does, example
        command.set_defaults(parser=command)
        for add in groups:
            add(command)
    return parser


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object (docs/json.md)")


def _add_request(command: argparse.ArgumentParser) -> None:
    asked = command.add_argument_group("request (each overrides the request file)")
    asked.add_argument("--config-file", metavar="FILE", help=f"request file [CONFIG_FILE, {DEFAULT_REQUEST}]")
    asked.add_argument("--est-server", metavar="URL", help="base URL of the EST server [ESTSERVER]")
    asked.add_argument("--pkey-ids", metavar="ID,ID", help="key ids of the token [PKEYIDS]")
    asked.add_argument("--cert-ids", metavar="ID,ID", help="certificate ids of the token [CERTIDS]")


def _add_rotate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--rotation-id", metavar="ID", help="tag of the rotation's events [ROTATIONID, else certs-<unix time>-<random>]"
    )
    command.add_argument("--dry-run", action="store_true", help="show what would be done; change nothing")
    command.add_argument("--json", action="store_true", help="with --dry-run: print one JSON object (docs/json.md)")
    command.add_argument(
        "--if-due",
        metavar="SHARE",
        type=_SHARE,
        help="rotate only if less than this share of the certificate's lifetime is left, such as 0.33",
    )


def _add_resume(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--offline", action="store_true", help="without network: only complete or revert an interrupted switch"
    )
    command.add_argument("--unattended", action="store_true", help="do not retry a refused rotation")


def _add_status(command: argparse.ArgumentParser) -> None:
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object (docs/json.md)")
    form.add_argument("--prometheus", action="store_true", help="print metrics for Prometheus")
    command.add_argument("--output", metavar="FILE", help="write the JSON or the metrics to FILE, atomically")
    command.add_argument(
        "--exit-status", action="store_true", help="exit with 0 (all well), 1 (watch it) or 2 (fix it)"
    )


def _add_log(command: argparse.ArgumentParser) -> None:
    command.add_argument("-n", dest="number", metavar="N", type=_COUNT, help="only the last N rotations")


def _add_daemon(command: argparse.ArgumentParser) -> None:
    for name, seconds, what in (("first", 30, "shortest"), ("longest", 3600, "longest")):
        command.add_argument(
            f"--{name}-delay",
            metavar="SECONDS",
            type=_DELAY,
            default=seconds,
            help=f"{what} time between two attempts [%(default)s]",
        )


_COMMANDS: dict[str, tuple[str, str, *tuple[Callable[[argparse.ArgumentParser], None], ...]]] = {
    "rotate": (
        "Rotate the certificate now, by hand. Options override the request file. Continues a pending rotation.",
        "rotate --est-server https://est.example:8443/.well-known/est",
        _add_request,
        _add_rotate,
    ),
    "resume": (
        "Continue a pending rotation now. Unlike the daemon, also retry a refused one.",
        "resume -v",
        _add_resume,
    ),
    "abort": ("Give up a pending rotation, if that is still possible. The old certificate stays in use.", "abort"),
    "status": (
        "Show which certificate is in use, and what is pending. Needs no network.",
        "status --json",
        _add_status,
    ),
    "check": (
        "Check everything that a rotation needs. Changes nothing; contacts each server once.",
        "check -q --est-server https://est.example:8443/.well-known/est",
        _add_request,
        _add_json,
    ),
    "slots": ("List the keys and certificates, and whose they are.", "slots", _add_json),
    "log": ("Show what happened in the last rotations, newest last.", "log -n 1", _add_log, _add_json),
    "daemon": ("Finish what is pending, then end. systemd starts it.", "daemon", _add_daemon),
}
"""What each command does, an example, and its options. The list of commands has only the first sentence."""
