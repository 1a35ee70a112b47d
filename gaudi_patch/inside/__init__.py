"""Scripts that the target's interpreter runs; they import nothing of gaudi_patch."""
