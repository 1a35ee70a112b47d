"""Small programs whose counters are read after them, by what they are about."""
