"""Floor 5: what ``ditkit study scaling`` is made of: a grid of models, their runs, what they cost and reach, pages."""
