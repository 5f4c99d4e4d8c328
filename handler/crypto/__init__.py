"""Pure: certificates, ECIES, encrypted configuration values."""
