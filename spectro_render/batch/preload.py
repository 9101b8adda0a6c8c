"""Importing this module imports all that renders, which a server of workers does once for all."""

from contextlib import suppress

from spectro_render.batch.engine import without_collection

# A worker meets the same error again, and reports it.
with suppress(Exception), without_collection():
    from spectro_render.batch import slots  # noqa: F401
    from spectro_render.render import renderer  # noqa: F401
