"""The kinds of tokens that the program is tried with, each started and stopped by a context manager.

    with running_token("tpm2") as token:
        make_device(..., keys="token", token=token)

softhsm   SoftHSM 2
tpm2      tpm2-pkcs11 on a TPM emulator (swtpm) of its own, with a resource manager (tpm2-abrmd)
p11kit    SoftHSM in a process of its own, behind p11-kit's remoting
spy       SoftHSM behind pkcs11-spy, which writes down every call

What a token holds is asked of SoftHSM itself where it is behind something; of a TPM by a process apart.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.tokens.apart import Apart
from tests.tokens.soft import SPY, SoftHsm, running_softhsm
from tests.tokens.tpm import Chip, Tpm, new_tpm

__all__ = ["KINDS", "SPY", "WITHOUT_ECDH", "running_token"]

KINDS = ("softhsm", "tpm2", "p11kit", "spy")
WITHOUT_ECDH = ("tpm2", "p11kit")


@contextlib.contextmanager
def running_token(kind: str, label: str | None = None) -> Iterator[SoftHsm | Tpm]:
    """Start a token of that kind, empty, and stop it. `label`: exactly that one, where one of its own will not do."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if kind == "tpm2":
            chip = Chip(folder)
            with Apart(chip.environment) as helper:
                helper.start()  # while the others start
                with chip:
                    yield new_tpm(chip, helper, label or "aktualizr")
        else:
            yield stack.enter_context(running_softhsm(kind, folder, label))
