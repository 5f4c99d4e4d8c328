"""A rotation that stopped at one of its requests."""

from handler.exit_status import PENDING, REFUSED, SWITCHED

ID = "certs-hand"


def left_after(factory, method, path, status=503):
    """Leave a rotation that stopped at a request: with 75, or refused."""
    factory.device.write_request(ID)
    headers = {"Retry-After": "3000"} if status == 503 else {}
    server = factory.est if path == "/simplereenroll" else factory.gateway
    skip = int(path == "/config-device")  # looked at once before the gateway is told anything
    if path == "/events":  # switched, and not proved
        server.faults.add("*", "*", times=None, announced=True, status=status, headers=headers)
    else:
        server.faults.add(method, path, times=None, skip=skip, status=status, headers=headers)
    done = factory.device.run()
    server.faults.clear()
    assert done.returncode in (PENDING, REFUSED, SWITCHED), done.stderr
    return done
