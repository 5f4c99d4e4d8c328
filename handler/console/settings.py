"""Paths and other settings: from options, from fioconfig's environment, or defaults."""

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from handler.device.configuration.toml_files import DEFAULT_SEARCH_PATHS
from handler.errors import RequestRefusedError

DEFAULT_REQUEST = "/var/run/secrets/fio-rotate-certs"


class Settings(NamedTuple):
    """Options override fioconfig's environment, which overrides the defaults."""

    request_file: Path
    request_named: bool
    search_paths: tuple[Path, ...]
    storage: Path | None
    config_url: str | None
    hsm_wait: str
    """HSM_WAIT, unparsed: not every command needs it."""

    @classmethod
    def of(cls, options: argparse.Namespace, environment: Mapping[str, str]) -> "Settings":
        """Merge options and environment. An empty variable counts as unset."""
        named = getattr(options, "config_file", None)
        request_file = named or environment.get("CONFIG_FILE") or DEFAULT_REQUEST
        sota = options.sota or environment.get("SOTA_DIR") or ",".join(DEFAULT_SEARCH_PATHS)
        storage = options.storage_dir or environment.get("STORAGE_DIR")
        return cls(
            request_file=Path(request_file),
            request_named=bool(named),
            search_paths=tuple(Path(part.strip()) for part in sota.split(",") if part.strip()),
            storage=Path(storage) if storage else None,
            config_url=environment.get("CONFIG_URL") or None,
            hsm_wait=environment.get("HSM_WAIT") or "0",
        )

    @property
    def token_wait(self) -> float:
        """Seconds to wait for a token that is not present yet. Raises RequestRefusedError."""
        with contextlib.suppress(ValueError):
            if 0 <= (seconds := float(self.hsm_wait)) < float("inf"):  # false for "nan", too
                return seconds
        raise RequestRefusedError(
            f"HSM_WAIT in the environment is {self.hsm_wait!r}: expected a number of seconds, such as 60"
        )

    def storage_folder(self) -> Path:
        """Return the storage folder, by default from the configuration. Raises RefusedError, OSError."""
        from handler.device.configuration.toml_files import SotaConfig  # noqa: PLC0415 - not needed for --help

        return self.storage or Path(SotaConfig.load(self.search_paths).require("storage.path"))
