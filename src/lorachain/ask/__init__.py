"""Questions to any step of a chain or any directory, answered one model after the other."""
