"""Rotation of a device's TLS client certificate, called by fioconfig."""

__version__ = "0.2.0"
