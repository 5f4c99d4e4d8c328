"""Everything that knows PKCS#11: tokens, their slots, and keys that stay in them."""
