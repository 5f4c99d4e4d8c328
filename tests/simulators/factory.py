"""A whole factory: authorities, both servers running, and one registered device that knows them."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tests import softhsm

from .device import Device, make_device
from .est_server import EstServer, EstState
from .gateway import Gateway, GatewayState
from .pki import FactoryPki
from .relay import Relay


@dataclass
class Factory:
    """What a test sets up and questions: the states `est` and `gateway`, and the device."""

    pki: FactoryPki
    est: EstState
    gateway: GatewayState
    est_server: EstServer
    gateway_server: Gateway
    device: Device
    relays: tuple[Relay, ...]
    """With a delay: the ways to the gateway and to the EST server."""


@contextlib.contextmanager
def running_factory(
    folder: Path,
    keys: Literal["file", "token"] = "file",
    *,
    est: Mapping[str, Any] | None = None,
    gateway: Mapping[str, Any] | None = None,
    delay: float = 0.0,
    **device: Any,
) -> Iterator[Factory]:
    """Run a factory with a device in `folder`, which must be empty; a token that is made for it ends with it.

    `est` and `gateway` are fields of their states, `device` are arguments of `make_device`. `delay`: seconds that the
    servers are away, each way.
    """
    pki = FactoryPki()
    est_state, gateway_state = EstState(pki, **(est or {})), GatewayState(pki, **(gateway or {}))
    with contextlib.ExitStack() as stack:
        est_server = stack.enter_context(EstServer(est_state))
        gateway_server = stack.enter_context(Gateway(gateway_state))
        gateway_url, est_url = gateway_server.url, est_server.base_url
        relays: tuple[Relay, ...] = ()
        if delay:
            relays = tuple(stack.enter_context(Relay(each.port, delay)) for each in (gateway_server, est_server))
            gateway_url, est_url = relays[0].url, relays[1].url + est_state.prefix
        made = make_device(folder, pki, keys=keys, gateway_url=gateway_url, est_url=est_url, **device)
        if made.token and made.token is not device.get("token"):
            stack.callback(softhsm.remove_token, made.token)
        gateway_state.register(made.certificate, made.config, made.config_device)
        gateway_state.config_modified = datetime.fromtimestamp(made.config_encrypted.stat().st_mtime, UTC)
        yield Factory(pki, est_state, gateway_state, est_server, gateway_server, made, relays)
