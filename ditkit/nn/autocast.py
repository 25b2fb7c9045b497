"""What is computed in its own precision within a network that runs in half."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Within it, operations take the dtypes that their inputs have."""
    if not torch.amp.is_autocast_available(device_type):  # the meta device, where costs are counted
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
