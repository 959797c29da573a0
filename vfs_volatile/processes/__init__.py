"""Looking at other processes: who has a file mapped."""
