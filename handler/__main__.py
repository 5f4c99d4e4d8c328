"""`python -m handler` is `renew-client-cert`."""

import sys

from .cli import main

sys.exit(main())
