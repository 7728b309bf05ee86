"""The programs that are timed generating text: a file each, which names its own in `PEERS`."""
