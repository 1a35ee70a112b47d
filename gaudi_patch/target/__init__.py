"""Find the installation: which LMCache, and which interpreter."""
