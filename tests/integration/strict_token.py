"""A PKCS#11 module in front of a device's own that refuses templates, as those of some secure elements do (ATECC)."""

import subprocess
from pathlib import Path

_SOURCE = r"""
#include <dlfcn.h>
#include <stdlib.h>
typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);
struct attribute { word type; void *value; word length; };
enum { GENERATE_KEY_PAIR = 59, ALL = 68, CLASS = 0, EC_PARAMS = 0x180, TEMPLATE_INCONSISTENT = 0xD1 };
struct list { unsigned char version[2]; void *of[ALL]; };
static struct list *real, ours;

static int has(struct attribute *template, word count, word type)
{
    while (count--)
        if (template[count].type == type)
            return 1;
    return 0;
}

static word generate(word a, word b, word c, word d, struct attribute *private, word count, word g, word h)
{
    if (getenv("STRICT_ALWAYS") || !has(private, count, CLASS) || !has(private, count, EC_PARAMS))
        return TEMPLATE_INCONSISTENT;
    /* SoftHSM in its turn refuses the curve there. */
    for (word i = 0; i < count; i++)
        if (private[i].type == EC_PARAMS)
            private[i--] = private[--count];
    return ((function)real->of[GENERATE_KEY_PAIR])(a, b, c, d, (word)private, count, g, h);
}

word C_GetFunctionList(struct list **found)
{
    void *module = dlopen(getenv("STRICT_MODULE"), RTLD_NOW | RTLD_LOCAL);
    ((word (*)(struct list **))dlsym(module, "C_GetFunctionList"))(&real);
    ours = *real;
    ours.of[GENERATE_KEY_PAIR] = (void *)generate;
    *found = &ours;
    return 0;
}
"""


class StrictToken:
    """The module, built in `folder`."""

    def __init__(self, device, folder):
        self._real = device.token.module
        self.library = Path(folder, "strict.so")
        command = ["cc", "-shared", "-fPIC", "-O1", "-xc", "-", "-o", str(self.library)]
        subprocess.run(command, input=_SOURCE, text=True, check=True, capture_output=True)

    def environment(self, *, always=False):
        """Give what the program needs in its environment; `always` refuses every template."""
        return {"STRICT_MODULE": self._real, **({"STRICT_ALWAYS": "1"} if always else {})}
