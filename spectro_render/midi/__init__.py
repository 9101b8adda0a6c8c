"""Reads MIDI files as scores: bytes -> events in ticks -> repaired events -> notes in seconds."""

from spectro_render.midi.read import MIDI_SUFFIXES, read_bytes, read_midi
from spectro_render.midi.score import Note, Score, Track, section

__all__ = ["MIDI_SUFFIXES", "Note", "Score", "Track", "read_bytes", "read_midi", "section"]
