"""Measuring how good a model sounds; only the command `evaluate` imports it."""
