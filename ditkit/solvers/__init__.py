"""Floor 1: solvers; each file is one family, each solver a generator of states."""
