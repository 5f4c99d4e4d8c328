"""Makes the man page and the bash completion from the parser that answers --help.

python packaging/manual.py man|bash
"""

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from handler import __version__
from handler.arguments import make_parser
from handler.cli import __doc__ as statuses

FILES = {
    "/var/run/secrets/fio-rotate-certs": "the request, as fioconfig writes it (CONFIG_FILE)",
    "/var/sota/renew-client-cert/": "the journal of a pending rotation, undelivered events, the history; no key, no PIN",
    "/var/sota/cert-rotation.state.completed": "the rotation that was completed last, as fioconfig keeps it",
    "/usr/share/fioconfig/handlers/renew-client-cert": "the same program, as fioconfig calls it",
    "/etc/default/renew-client-cert": "environment of the services",
}
ENVIRONMENT = {
    "CONFIG_FILE": "the request file",
    "STORAGE_DIR": "the storage folder; storage.path of the configuration where it is not set",
    "SOTA_DIR": "comma-separated TOML files and folders of the configuration",
    "CONFIG_URL": "replaces <tls.server>/config",
    "HSM_WAIT": "seconds that a token that is not there yet is waited for [0]",
    "NO_COLOR": "no colours on a terminal either",
}


def man() -> Iterator[str]:
    """Give the lines of the man page."""
    parser = make_parser()
    when = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or 0) or _newest(), UTC)
    yield f'.TH RENEW\\-CLIENT\\-CERT 8 "{when:%Y-%m-%d}" "renew-client-cert {__version__}" "System administration"'
    yield ".SH NAME"
    yield "renew\\-client\\-cert \\- rotate the TLS client certificate of this device"
    yield ".SH SYNOPSIS"
    yield f".B {_text(parser.prog)}"
    yield "[OPTION]... [COMMAND [OPTION]...]"
    yield ".SH DESCRIPTION"
    yield _text(parser.description or "")
    yield ".SH OPTIONS"
    yield from _options(parser)
    yield ".SH COMMANDS"
    for name, command, summary in commands(parser):
        yield f".SS {_text(name)}"
        yield _text(summary[:1].upper() + summary[1:] + ".")
        yield from _options(command, without=parser)
    yield ".SH EXIT STATUS"
    for status, meaning in _statuses():
        yield from (".TP", f".B {status}", _text(meaning))
    for title, entries in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield f".SH {title}"
        for name, meaning in entries.items():
            yield from (".TP", f".B {_text(name)}", _text(meaning))
    yield ".SH SEE ALSO"
    yield ".BR systemctl (1),"
    yield "renew\\-client\\-cert.service, renew\\-client\\-cert.path, renew\\-client\\-cert\\-offline.service"


def bash() -> Iterator[str]:
    """Give the lines of the bash completion."""
    parser = make_parser()
    yield "_renew_client_cert() {"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" i command='
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '        case "${COMP_WORDS[i]}" in'
    yield f"            {'|'.join(name for name, _, _ in commands(parser))}) command=\"${{COMP_WORDS[i]}}\" ;;"
    yield "        esac"
    yield "    done"
    yield '    case "${COMP_WORDS[COMP_CWORD-1]}" in'
    yield '        --config-file|--storage-dir|--sota) COMPREPLY=($(compgen -f -- "$word")); return ;;'
    yield "    esac"
    yield '    case "$command" in'
    for name, command, _ in commands(parser):
        yield f'        {name}) COMPREPLY=($(compgen -W "{" ".join(_flags(command))}" -- "$word")) ;;'
    names = " ".join(name for name, _, _ in commands(parser))
    yield f'        *) COMPREPLY=($(compgen -W "{names} {" ".join(_flags(parser))}" -- "$word")) ;;'
    yield "    esac"
    yield "}"
    yield "complete -F _renew_client_cert renew-client-cert"


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Give name, parser and summary of each command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield choice.dest, action.choices[choice.dest], choice.help or ""


def _options(parser: argparse.ArgumentParser, without: argparse.ArgumentParser | None = None) -> Iterator[str]:
    known = set(_flags(without)) if without else set()
    for action in parser._actions:
        if not action.option_strings or set(action.option_strings) <= known:
            continue
        value = f" {action.metavar}" if action.metavar else ""
        help_text = (action.help or "") % {"default": action.default}
        yield from (".TP", f".B {_text(', '.join(action.option_strings) + value)}", _text(help_text))


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def _statuses() -> Iterator[tuple[str, str]]:
    for line in (statuses or "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].isdecimal():  # noqa: PLR2004
            yield cells[0], cells[1]


def _text(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("\n", " ")


def _newest() -> float:
    return (Path(__file__).resolve().parents[1] / "CHANGELOG.md").stat().st_mtime


if __name__ == "__main__":
    lines = {"man": man, "bash": bash}[sys.argv[1]]()
    sys.stdout.write("".join(f"{line}\n" for line in lines))
