"""The timbre of a program by example: fitted to a sound with its notes, and kept in a file."""
