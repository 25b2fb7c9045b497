"""Floor 5: the kinds of runs, one file each (see ``ditkit.app.kind``)."""
