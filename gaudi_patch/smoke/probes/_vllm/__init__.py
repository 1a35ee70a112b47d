"""Drive a real vLLM engine: its set-up, its processes, the prompts, the cases of the connector and inference levels."""
