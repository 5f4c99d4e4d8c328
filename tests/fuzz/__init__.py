"""Spoilt input for everything that reads what others send: `make fuzz`; a short run is part of `make test`."""
