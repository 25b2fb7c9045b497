"""Feature networks, found by their modules: a class with ``name`` and ``load(path, device)`` (see ``network.py``)."""
