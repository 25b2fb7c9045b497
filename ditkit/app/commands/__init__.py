"""One module a command; its docstring's first line is its help."""
