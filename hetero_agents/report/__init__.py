"""What a run found, for people: a table in the terminal, a page in the browser.

This room shows numbers and never makes them: each score stands with its n and its 95 % interval, and
where the LLM was played by an answer key every place that shows the LLM says so.
"""

from .html import write_bake_off, write_movable, write_report
from .terminal import demo_table

__all__ = ["demo_table", "write_bake_off", "write_movable", "write_report"]
