"""The wire contract between clients and the daemon: ioctls and extended attributes.

Standard library only; shared by the client and the daemon, so each fact of the contract is
written once in Python. ``fvrange.h`` says the same for C; a test keeps the two equal.
"""
