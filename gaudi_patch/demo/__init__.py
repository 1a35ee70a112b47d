"""The demo: every step in a throwaway environment."""
