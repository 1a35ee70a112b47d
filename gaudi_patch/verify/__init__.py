"""The test that a running server returns cached KV, through its own API and its own metrics."""
