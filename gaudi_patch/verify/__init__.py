"""Whether a server that runs gives cached KV back: asked over its own API, and read from its own metrics."""
