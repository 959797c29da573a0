"""The rules: pure, synchronous, without I/O of their own, so that property tests can drive them.

``address_space`` is the heart; ``memory`` is what all files of a mount share; ``reclaim`` chooses
what is purged next. Everything here counts in pages unless a name says bytes.
"""
