"""Conformance cases: each runs on the CPU and on the emulated HPU, and the two results must be bit-identical."""
