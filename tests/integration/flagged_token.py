"""A PKCS#11 module in front of a device's own that adds flags to what the token says of itself, and counts logins."""

import subprocess
from pathlib import Path

COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000
"""CK_TOKEN_INFO.flags (PKCS#11 v2.40 §3.2)."""

_SOURCE = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef unsigned long (*function)(unsigned long, unsigned long, void *, unsigned long);
typedef unsigned long (*information)(unsigned long, unsigned char *);
enum { GET_TOKEN_INFO = 6, LOGIN = 18, ALL = 68, FLAGS = 96 };
struct list { unsigned char version[2]; void *of[ALL]; };
static struct list *real, ours;

static unsigned long token_info(unsigned long slot, unsigned char *info)
{
    unsigned long failed = ((information)real->of[GET_TOKEN_INFO])(slot, info), flags;
    if (!failed) {
        memcpy(&flags, info + FLAGS, sizeof flags);
        flags |= strtoul(getenv("TOKEN_FLAGS"), NULL, 0);
        memcpy(info + FLAGS, &flags, sizeof flags);
    }
    return failed;
}

static unsigned long login(unsigned long session, unsigned long user, void *pin, unsigned long length)
{
    FILE *log = fopen(getenv("TOKEN_LOGINS"), "a");
    fputs("login\n", log);
    fclose(log);
    return ((function)real->of[LOGIN])(session, user, pin, length);
}

unsigned long C_GetFunctionList(struct list **found)
{
    void *module = dlopen(getenv("TOKEN_MODULE"), RTLD_NOW | RTLD_LOCAL);
    ((unsigned long (*)(struct list **))dlsym(module, "C_GetFunctionList"))(&real);
    ours = *real;
    ours.of[GET_TOKEN_INFO] = (void *)token_info;
    ours.of[LOGIN] = (void *)login;
    *found = &ours;
    return 0;
}
"""


class FlaggedToken:
    """The module, built in `folder`, in the place of that device's."""

    def __init__(self, device, folder):
        self._real = device.token.module
        self._log = Path(folder, "logins")
        library = Path(folder, "flagged.so")
        command = ["cc", "-shared", "-fPIC", "-O1", "-xc", "-", "-o", str(library)]
        subprocess.run(command, input=_SOURCE, text=True, check=True, capture_output=True)
        configuration = device.folder / "usr/lib/sota/conf.d/40-hsm.toml"
        configuration.write_text(configuration.read_text().replace(self._real, str(library)))

    def environment(self, flags=0):
        """Give what the program needs in its environment."""
        return {"TOKEN_MODULE": self._real, "TOKEN_LOGINS": str(self._log), "TOKEN_FLAGS": str(flags)}

    @property
    def logins(self):
        """How often anybody tried a PIN through this module."""
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0
