"""Hooks, executables of other users of the certificate: which ones run, and how."""
