"""The published model's pipeline and parts, with the interface of the diffusers package."""
