"""Executables of others who use the certificate: which ones run, and how."""
