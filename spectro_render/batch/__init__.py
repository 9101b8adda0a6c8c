"""Renders the songs of one command, on this machine or on a Ray cluster."""
