"""What a KV transfer costs with the patched and with the unpatched code."""
