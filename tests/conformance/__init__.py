"""Conformance: this project's results beside recorded results of the public reference implementations."""
