from typing import Dict, List, Literal, Optional

from metagpt.actions import Action, WriteDesign
from metagpt.actions.action_node import ActionNode
from metagpt.roles import ProductManager, Role
from metagpt.roles.role import RoleReactMode
from metagpt.team import Team

GOALS = ActionNode(
    key="Product Goals", expected_type=List[str], instruction="At most three goals.", example=["Be quick"]
)
PRIORITY = ActionNode(
    key="Priority", expected_type=Literal["high", "low"], instruction='How urgent? Say "high" or "low".', example="low"
)
UNCLEAR = ActionNode(key="Anything UNCLEAR", expected_type=Optional[str], instruction="What to ask back.", example="")
SCORES = ActionNode(key="json", expected_type=Dict[str, float], instruction="A score a goal.", example={})
NODES = [GOALS, PRIORITY]
BRIEF_NODE = ActionNode.from_children("Brief", NODES + [UNCLEAR, SCORES])


class WriteBrief(Action):
    """Write the brief of a product."""

    async def run(self, context):
        return await BRIEF_NODE.fill(context=context, llm=self.llm)


class Draft(Action):
    """Drafts."""

    async def run(self, context):
        prompt = "Draft the product.\n"
        prompt += str(context)
        return await self._aask(prompt)


class Polish(Action):
    async def run(self, draft):
        return await self._aask(f'Polish: {draft}\nC:\\temp stays as it is, and so does """this""".')


class RunIt(Action):
    async def run(self, code):
        return str(len(code))


class Approve(Action):
    async def run(self, text):
        first = await self._aask(self.assemble(text))
        return await self._aask("Are you sure? " + first)

    def assemble(self, text):
        return "Approve?\n" + text


class Planner(Role):
    name: str = "Pia"
    profile: str = "Planner"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.set_actions([WriteBrief])


class Writer(Role):
    profile: str = "Writer"
    constraints: str = "No adjectives"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.set_actions([Draft, Polish])
        self._set_react_mode(react_mode=RoleReactMode.BY_ORDER.value)
        self._watch({WriteBrief, Approve})


class Clerk(Role):
    profile: str = "Clerk"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.set_actions([Approve, RunIt])
        self._set_react_mode("react", max_react_loop=5)
        self._watch([Polish])


class Boss(Role):
    profile: str = "Boss"
    is_human: bool = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.set_actions([Approve])
        self._watch([RunIt])


class Analyst(Role):
    profile: str = "Analyst"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._set_react_mode(react_mode="plan_and_act", auto_run=True)
        self.set_actions([Draft])
        self._watch([WriteDesign])


class Idle(Role):
    profile: str = "Idle"


team = Team()
team.hire([Planner(), Writer(), Clerk(), Boss(), Analyst(), Idle(), ProductManager()])
