"""The model under the names that diffusers gave it."""
