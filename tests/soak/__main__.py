"""The soak's command line."""

import argparse
import logging
import subprocess
import sys

from tests import soak


def main():
    """Soak as the command line says."""
    parser = argparse.ArgumentParser(description=soak.__doc__.splitlines()[0])
    parser.add_argument("--keys", choices=soak.KINDS, action="append")
    parser.add_argument("--rotations", type=int, default=500, help="after the warm-up; default 500")
    options = parser.parse_args()
    kinds = options.keys or soak.KINDS
    if len(kinds) > 1:
        # A process for each: what one has loaded is not the growth of another.
        command = [sys.executable, "-m", "tests.soak", "--rotations", str(options.rotations), "--keys"]
        return max(subprocess.run([*command, keys], check=False).returncode for keys in kinds)
    logging.disable(logging.WARNING)
    broken, summary = soak.soak(kinds[0], options.rotations)
    for each in broken[:20]:
        print(f"BROKEN {each}")
    print(summary, flush=True)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
