"""What every test of a command that only looks does: run it, and compare before and after."""


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
