"""The patched wheel: a series applied to a release's wheel in memory, for a private index."""
