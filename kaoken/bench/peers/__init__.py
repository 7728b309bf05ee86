"""The programs that are timed: a file each, which names its own in `PEERS`."""
