"""A rotation: what is done, in which order, and how it ends."""
