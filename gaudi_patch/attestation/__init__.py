"""The attestation: what `apply --report` writes, and `check --against` holds an installation against.

``schema.json`` is the published form of it. It is also what a file is checked by, so that there is one list of fields.
"""
