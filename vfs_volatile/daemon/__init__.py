"""One mounted process: its configuration, its main loop, its purger."""
