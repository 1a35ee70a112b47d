"""How much KV a model makes, and what memory, disk and time that takes.

``shapes`` reads a model's config.json or the table of ``models``; ``plan`` is the one calculation, which `size` and
`recipe` share. Only ``shapes`` reads files.
"""
