"""Results to a terminal, a pipe, JSON or annotations."""
