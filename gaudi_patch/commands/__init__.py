"""One module a verb; each has a function that returns a Result."""
