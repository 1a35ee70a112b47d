"""Measure the cost of a KV transfer with the patched and the unpatched code."""
