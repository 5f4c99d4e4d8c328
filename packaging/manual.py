"""Prints the manual page: manual.8.in with the commands and their options. For install.sh and `make docs`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from handler import __version__
from handler.console.arguments import make_parser


def roff(text: str) -> str:
    """Return text that roff takes as it is."""
    return "\\&" + text.replace("\\", "\\e").replace("-", "\\-")


def options(parser: argparse.ArgumentParser, known: frozenset[str] = frozenset()) -> Iterator[str]:
    """Give the options of a parser, without those whose `dest` is known."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list them
        if action.option_strings and action.dest not in known:
            names = ", ".join(f"\\fB{roff(name)}\\fR" for name in action.option_strings)
            metavar = f" \\fI{roff(str(action.metavar))}\\fR" if action.metavar else ""
            yield from (".TP", names + metavar, roff((action.help or "") % vars(action)))


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Give each command with what it does and the options that it alone has."""
    (found,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001
    for name, command in found.choices.items():
        yield from (f'.SS "{name}"', roff(command.does))
        yield from options(command, frozenset(each.dest for each in parser._actions))  # noqa: SLF001


def page(prefix: str) -> str:
    """Return the manual page of a program below `prefix`, as roff."""
    parser = make_parser()
    text = Path(__file__).with_name("manual.8.in").read_text(encoding="utf-8").replace("@VERSION@", __version__)
    text = text.replace("/usr/share", f"{prefix}/share")
    for place, lines in (("@OPTIONS@", options(parser)), ("@COMMANDS@", commands(parser))):
        text = text.replace(place, "\n".join(lines))
    return text


if __name__ == "__main__":
    sys.stdout.write(page(sys.argv[1]))
