"""The man pages, made from what ``--help`` says and from the documentation: ``make install``."""
