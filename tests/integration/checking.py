"""`check` of a simulated device, and its lines, parsed."""

import re

from handler.commands.check import results
from handler.console.arguments import make_parser
from handler.console.settings import Settings
from handler.device.configuration.configuration import Configuration
from handler.device.request import Overrides

from .looking import look

HERE = {"services", "handler"}
"""What is never as on a device where tests run."""


def findings(done):
    """Give the lines as (level, topic, text), without the last one, and without those about the tests' own system."""
    found = [tuple(re.split(r" +", line, maxsplit=1)) for line in done.stdout.splitlines()[:-1]]
    parts = [(level, rest[:15].strip(), rest[15:]) for level, rest in found]
    return [part for part in parts if part[1] not in HERE]


def not_ok(done):
    """Give level and topic of what is not ok, and all its text."""
    found = [each for each in findings(done) if each[0] not in ("ok", "skipped")]
    return {(level, topic) for level, topic, _ in found}, " | ".join(text for *_, text in found)


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def checked(factory, *arguments, asked=(), **given):
    return look(factory, "check", *arguments, asked=asked, **given)


def found(factory, system):
    """Run all checks in this process; give what was found."""
    settings = Settings.of(make_parser().parse_args(["check"]), factory.device.environment())
    configured = Configuration(settings.search_paths, settings.storage, None)
    return list(results(settings, configured, Overrides(), system))
