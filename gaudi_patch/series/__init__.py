"""What is applied: the manifest, its lock, and unified diffs read strictly."""
