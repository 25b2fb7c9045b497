"""Reading at a place of a file, from many threads and processes at once."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO


class FileAt:
    """A file that is read at given places. Safe in threads, and after a fork where the system has ``pread``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = os.fstat(file.fileno()).st_size

    def read(self, place: int, count: int) -> bytes:
        """``count`` bytes from ``place`` on. Raises OSError when the file ends before."""
        if hasattr(os, "pread"):
            content = self._pread(place, count)
        else:
            with self._lock:
                self._file.seek(place)
                content = self._file.read(count)
        if len(content) < count:
            raise OSError(f"the file ends at byte {place + len(content):,} where {count - len(content):,} more are due")
        return content

    def _pread(self, place: int, count: int) -> bytes:
        content = os.pread(self._file.fileno(), count, place)
        while len(content) < count:  # the system may give less than asked for
            more = os.pread(self._file.fileno(), count - len(content), place + len(content))
            if not more:
                break
            content += more
        return content
