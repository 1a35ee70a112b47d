"""Scripts run by the target's interpreter; they import nothing of gaudi_patch."""
