"""Ready-made roles: typed Python, long prompts in Markdown beside it. None yet: they come with crews."""
