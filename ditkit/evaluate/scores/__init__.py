"""The scores of the suite: every public function here that takes a ``Measured`` is one, found by its module.

A new score is a new file with ``def name(measured: Measured) -> dict[str, Score]``. It gives one or more keys of
metrics.json, or none where it has no meaning for what was measured (class accuracy without classes).
"""
