"""Floor 5: recipes, the command line and the report."""
