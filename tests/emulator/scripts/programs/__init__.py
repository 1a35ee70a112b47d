"""Small programs, grouped by topic, whose counters are read after each run."""
