"""Ready-made tools: plain typed functions for any agent. None yet: they come with crews."""
