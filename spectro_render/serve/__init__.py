"""Renders songs for others: a server with a page for people and an interface for programs."""
