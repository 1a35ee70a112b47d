"""The whole story in a throwaway environment."""
