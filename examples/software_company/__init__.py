"""A software company, from a requirement to a tested program: `hetero run examples/software_company "a command-line todo list"`."""
