"""The parts of an evaluation by name, without the packages that measure them."""

FILE_PARTS = ("files", "vocoder", "band", "frechet")  # measured on the user's MIDI files
PROBE_PARTS = ("instruments", "velocity", "levels", "vibrato")  # on phrases and notes made for them
PARTS = (*FILE_PARTS, *PROBE_PARTS)
