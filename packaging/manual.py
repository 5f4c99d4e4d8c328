"""The command line for the manual: options of every command once, exit statuses in a section of their own."""

import argparse

from handler.console.arguments import make_parser

EVERYWHERE = {"help", "storage_dir", "sota", "verbose", "quiet"}


def described() -> argparse.ArgumentParser:
    """Give the parser for argparse-manpage."""
    parser = make_parser()
    parser.description = parser.epilog = None
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001
    for command in commands.choices.values():
        command.epilog = f"Example: {command.example}"
        command._actions = [each for each in command._actions if each.dest not in EVERYWHERE]  # noqa: SLF001
        for group in command._action_groups:  # noqa: SLF001
            group._group_actions = [each for each in group._group_actions if each.dest not in EVERYWHERE]  # noqa: SLF001
    return parser
