"""`python -m gaudi_patch`."""

from gaudi_patch.cli import main

main()
