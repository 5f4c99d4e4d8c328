"""The journal of a rotation and its history, read and written."""
