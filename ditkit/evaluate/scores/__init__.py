"""The scores of the suite: every public function here that is marked ``@score`` is one, found by its module.

A new score is a new file with a function ``(measured: Measured) -> dict[str, Score]`` under ``@score(...)``
(see ``ditkit.evaluate.requirements``), which says what it needs, of how many images, and how it errs with few.
"""
