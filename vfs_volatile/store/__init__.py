"""Where page data lives."""
