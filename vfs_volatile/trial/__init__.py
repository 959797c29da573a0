"""What the demo and the scenarios share: a mount and processes for the time of one run."""
