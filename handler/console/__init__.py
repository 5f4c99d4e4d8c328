"""How the program is called and what a person reads of it."""
