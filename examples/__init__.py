"""Examples: each folder is a workspace of its own, with a hetero.toml."""
