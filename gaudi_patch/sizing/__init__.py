"""The size of a model's KV cache, and the memory, disk and time it needs.

``shapes`` reads a model's config.json or the table of ``models``. ``plan`` is the only calculation; `size` and `recipe`
share it. Only ``shapes`` reads files.
"""
