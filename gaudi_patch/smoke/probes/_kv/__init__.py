"""Drive LMCache's connector and engine without vLLM: caches of every layout, an oracle, a rig of both."""
