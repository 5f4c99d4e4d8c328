"""The phases of a rotation, before, during and after its five steps: what the actions of the rules do."""
