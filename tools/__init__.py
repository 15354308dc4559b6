"""Ready-made tools for any `pydantic_ai.Agent`: typed methods of small classes that hold what a model must not choose.

    files      read, write, edit, list text files in one folder
    search     find lines in them
    shell      programs of an allow-list
    python     programs that a model wrote
    git        versions of one folder
    fetch      text from public web addresses
    sandbox    what confines shell, python, git and search; `confine` is its other half, in processes of its own

What a model can mend is a `ModelRetry`, which pydantic-ai hands to it; to other callers it is an exception with one sentence.
"""
