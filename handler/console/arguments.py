"""The command line's arguments."""

import argparse
import os
import sys
from typing import NoReturn

from handler import __version__
from handler.backoff import MAX_ASKED
from handler.exit_status import USAGE

from .settings import DEFAULT_REQUEST
from .terminal import Console


def _share(text: str) -> float:
    share = _number(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share of a certificate's life, such as 0.33")
    return share


def _delay(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds <= MAX_ASKED:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, up to a day")
    return seconds


def _number(text: str) -> float:
    """Read a number; one that no comparison holds for where it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        from .table import hanging  # noqa: PLC0415 - the daemon does without

        width = Console.of(sys.stderr, os.environ).width
        lines = hanging(f"{self.prog}: ", f"{message}; see {self.prog} --help", width)
        self.exit(USAGE, "".join(f"{line}\n" for line in lines))


def _common_options(default: str | None = argparse.SUPPRESS) -> _Parser:
    """Options that stand before a command or behind it: there, only what is given counts."""
    common = _Parser(add_help=False, argument_default=default)
    group = common.add_argument_group("where things are (each over the environment)")
    group.add_argument("--storage-dir", metavar="DIR", help="storage folder [STORAGE_DIR, storage.path]")
    group.add_argument("--sota", metavar="PATH[,PATH]", help="TOML files and folders of the configuration [SOTA_DIR]")
    common.add_argument("-v", "--verbose", action="store_const", const=True, help="say what is done in between")
    quiet = "say nothing but warnings and errors; of check: only what is not ok"
    common.add_argument("-q", "--quiet", action="store_const", const=True, help=quiet)
    return common


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = _Parser(
        prog="renew-client-cert",
        parents=[_common_options(None)],
        description="Rotates the TLS client certificate of this device: new key, EST enrolment, switch, report. "
        "Without a command it is the handler, as fioconfig calls it: it reads the file CONFIG_FILE.",
        epilog="exit status: 0 done or nothing to do, 64 usage, 75 pending (will be resumed), 78 refused, "
        "123 switched (called by fioconfig), 1 a bug; of check: 1 warnings, 2 problems",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    rotate = commands.add_parser("rotate", parents=[_common_options()], help="rotate now, by hand")
    asked = rotate.add_argument_group("what is asked (each over the request file)")
    asked.add_argument("--config-file", metavar="FILE", help=f"request file [CONFIG_FILE, {DEFAULT_REQUEST}]")
    asked.add_argument("--est-server", metavar="URL", help="base URL of the EST server [ESTSERVER]")
    asked.add_argument(
        "--rotation-id", metavar="ID", help="tag of its events [ROTATIONID, else certs-<unix time>-<random>]"
    )
    asked.add_argument("--pkey-ids", metavar="ID,ID", help="key ids of the token [PKEYIDS]")
    asked.add_argument("--cert-ids", metavar="ID,ID", help="certificate ids of the token [CERTIDS]")
    rotate.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    rotate.add_argument(
        "--if-due", metavar="SHARE", type=_share, help="only where less of the certificate's life is left, such as 0.33"
    )
    resume = commands.add_parser("resume", parents=[_common_options()], help="go on with a rotation that stopped")
    resume.add_argument(
        "--offline", action="store_true", help="only make a half-switched device whole, without any network"
    )
    resume.add_argument("--unattended", action="store_true", help="leave a rotation that was refused alone")
    commands.add_parser(
        "abort", parents=[_common_options()], help="give up a pending rotation, if that is possible still"
    )
    commands.add_parser("log", parents=[_common_options()], help="show what happened in the last rotations")
    status = commands.add_parser("status", parents=[_common_options()], help="show what is in use and what is pending")
    status.add_argument("--json", action="store_true", help="as one JSON object (docs/status.md)")
    check = commands.add_parser("check", parents=[_common_options()], help="try what a rotation needs, change nothing")
    check.add_argument("--config-file", metavar="FILE", help=f"request file [CONFIG_FILE, {DEFAULT_REQUEST}]")
    check.add_argument("--est-server", metavar="URL", help="base URL of the EST server [ESTSERVER]")
    check.add_argument("--pkey-ids", metavar="ID,ID", help="key ids of the token [PKEYIDS]")
    check.add_argument("--cert-ids", metavar="ID,ID", help="certificate ids of the token [CERTIDS]")
    commands.add_parser("slots", parents=[_common_options()], help="list the keys and certificates, and whose they are")
    daemon = commands.add_parser(
        "daemon", parents=[_common_options()], help="finish what is pending, then end (for systemd)"
    )
    for name, seconds, what in (("first", 30, "shortest"), ("longest", 3600, "longest")):
        daemon.add_argument(
            f"--{name}-delay", metavar="SECONDS", type=_delay, default=seconds, help=f"{what} back-off [%(default)s]"
        )
    return parser
