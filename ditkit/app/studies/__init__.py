"""Floor 5: the studies of ``ditkit study``, a module with ``main(args)`` for each, found by its name."""
