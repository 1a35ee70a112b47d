"""Which LMCache and which interpreter: everything that finds the installation."""
