"""Set-up of all tests: one thread per process, and the conformance tally at the end of a run."""

import os

# pytest-xdist runs one process per core; more threads than that only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.conformance.tally", "tests.running", "tests.storing"]
