"""`hetero init --from-metagpt`: a MetaGPT project's source becomes a first draft of a crew. It is read, never imported or run."""

from .draft import CREW, Draft, draft_of
from .project import Gap, Project
from .read import read_project

__all__ = ["CREW", "Draft", "Gap", "Project", "draft_of", "read_project"]
