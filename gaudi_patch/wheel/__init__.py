"""The patched wheel: a series applied to a release's wheel in memory, for an index of one's own."""
