"""The checks of `renew-client-cert check`."""
