"""Renders the songs of one command, here or on a Ray cluster."""

from spectro_render.batch.batch import Batch

__all__ = ["Batch"]
