"""Ready-made roles: typed Python, long prompts in Markdown beside it."""
