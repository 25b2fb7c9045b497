"""Floor 5: what ``ditkit study solvers`` is made of: choices of solvers, measured points, pages."""
