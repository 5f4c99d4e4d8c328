"""What every test of a command that only looks does: run it, and compare before and after."""

import os
import pty
import subprocess

from tests.simulators.device import REPOSITORY


def look(factory, *arguments, environment=None, asked=None):
    """Run the program; give what it did, having made sure that nothing changed and that nothing was given away.

    `asked`: the requests that the servers may have got; none where not given.
    """
    device = factory.device
    before, states = device.snapshot(), (factory.gateway, factory.est)
    counts = [len(state.requests) for state in states]
    done = device.run(*arguments, environment=environment)
    assert "Traceback" not in done.stdout + done.stderr
    assert device.snapshot() == before
    new = [call for state, count in zip(states, counts, strict=True) for call in state.calls()[count:]]
    assert new == list(asked or [])
    assert not gives_secrets_away(device, done.stdout + done.stderr)
    return done


def gives_secrets_away(device, text):
    """Tell whether the PIN or a private key is in a text."""
    keys = [line for file in device.private_key_files() for line in file.read_text().splitlines()[1:-1]]
    return any(each in text for each in [*([device.token.pin] if device.token else []), *keys])


def on_terminal(device, *arguments, environment=None):
    """Run the program on a terminal; give what shows there."""
    ours, theirs = pty.openpty()
    command, given = device.command(*arguments), device.environment() | (environment or {})
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=given, cwd=REPOSITORY) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:
            pass  # how Linux tells that the other end is closed
        finally:
            os.close(ours)
    assert process.returncode in {0, 1, 2}
    return shown.decode().replace("\r\n", "\n")
