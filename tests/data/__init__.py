"""A few small cases remade from this project's own code, in the format of the recorded ones."""
