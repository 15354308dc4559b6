"""The company, with its projects below `artefacts` in the folder that it is started from."""

from pathlib import Path

from hetero_agents.roles.software import company

crew = company(Path("artefacts"))
