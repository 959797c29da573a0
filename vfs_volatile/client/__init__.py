"""What a program does to the files of a mount, from Python. Standard library only."""
