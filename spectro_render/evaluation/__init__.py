"""Measures how good a model sounds, for the command `evaluate`."""
