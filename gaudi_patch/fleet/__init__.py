"""Many hosts: what `check --json` said on each of them, summed up."""
