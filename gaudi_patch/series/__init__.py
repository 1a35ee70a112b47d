"""The patches to apply: the manifest, its lock, and strictly parsed unified diffs."""
