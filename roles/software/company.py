"""The company as a crew: who works on what follows from the types."""

from __future__ import annotations

from pathlib import Path

from hetero_agents import Crew

from .architect import architect
from .engineer import engineer
from .messages import Delivery
from .office import Office
from .product_manager import product_manager
from .project_manager import project_manager
from .reviewer import reviewer
from .tester import tester


def company(root: Path, *, summaries: int = 0, unsafe: bool = False) -> Crew:
    """Return a crew that takes a `Requirement` and gives a `Delivery`.

    Args:
        root: the folder of the company's projects; it is made where it is not there.
        summaries: how often the code as a whole is looked at before it is tested, and what is missing is written.
        unsafe: run tests and git also where nothing here can confine them.
    """
    crew = Crew("software_company", gives=Delivery)
    office = Office(root, summaries, unsafe)
    people = (product_manager, architect, project_manager, engineer, reviewer, tester)
    for role in (office.opener, *people, office.integrator, office.runner):
        crew.role(role)
    return crew
