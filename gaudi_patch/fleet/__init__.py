"""Many hosts: a summary of their `check --json` reports."""
