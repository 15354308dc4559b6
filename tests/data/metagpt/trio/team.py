import asyncio

from actions import ReviewTests, WriteFunction, WriteTests
from metagpt.actions import UserRequirement
from metagpt.roles import Role
from metagpt.schema import Message
from metagpt.team import Team


class Coder(Role):
    name: str = "Ada"
    profile: str = "Coder"
    goal: str = "Write short functions."

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._watch([UserRequirement])
        self.set_actions([WriteFunction])


class Tester(Role):
    name: str = "Bob"
    profile: str = "Tester"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.set_actions([WriteTests])
        self._watch([WriteFunction, ReviewTests])

    async def _act(self) -> Message:
        todo = self.rc.todo
        context = self.get_memories()
        return Message(content=await todo.run(context, k=5), role=self.profile, cause_by=type(todo))


class Reviewer(Role):
    name: str = "Cleo"
    profile: str = "Reviewer"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.set_actions([ReviewTests])
        self._watch([WriteTests])


async def main(idea: str = "a function that adds two numbers", investment: float = 3.0, n_round: int = 5):
    team = Team()
    team.hire([Coder(), Tester(), Reviewer()])
    team.invest(investment=investment)
    team.run_project(idea)
    await team.run(n_round=n_round)


if __name__ == "__main__":
    asyncio.run(main())
