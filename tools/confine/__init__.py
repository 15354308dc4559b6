"""What confines a command: the warden, a process that starts it, watches it and ends all of it.

The modules here import the standard library alone and only each other, relatively: the warden runs in a bare interpreter,
where this folder is the package `confine`. Programs use `hetero_agents.tools.sandbox`.
"""
