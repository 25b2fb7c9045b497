"""What every other room stands on: errors, keyed randomness, safe files, discovery by module."""
