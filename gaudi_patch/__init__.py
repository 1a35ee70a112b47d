"""gaudi-patch: apply, verify and roll back the CUDA-to-HPU patches for LMCache on Intel Gaudi."""

__version__ = "0.2.0.dev0"
