"""The attestation: written by `apply --report`, compared with an installation by `check --against`.

``schema.json`` is its published form. Files are validated against it too, so there is only one list of fields.
"""
