"""Tests of the emulated HPU. They run in separate processes, with PyTorch and the device active."""
