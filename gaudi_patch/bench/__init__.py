"""`bench`: what a KV transfer costs with the patched and with the stock code, and what a start of the tool costs."""
