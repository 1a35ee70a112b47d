"""Smoke checks: proof that the patched code runs, level by level."""
