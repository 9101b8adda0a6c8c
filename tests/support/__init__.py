"""Helpers for several tests, benchmarks and fuzzers; there are no tests in this folder."""
