"""Drive LMCache's connector and engine without vLLM: caches of every layout, an oracle, and a rig of both."""
