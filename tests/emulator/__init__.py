"""Tests of the emulated HPU. They run in processes of their own, with PyTorch and the device active."""
