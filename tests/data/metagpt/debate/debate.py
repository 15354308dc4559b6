import asyncio

from metagpt.actions import Action, UserRequirement
from metagpt.environment import Environment
from metagpt.roles import Role
from metagpt.schema import Message
from metagpt.team import Team


class Argue(Action):
    async def run(self, context: str, name: str, opponent: str):
        prompt = f"{name} debates with {opponent}. So far:\n{context}\nAnswer in two sentences."
        return await self._aask(prompt)


class Debater(Role):
    opponent: str = ""

    def __init__(self, **data):
        super().__init__(**data)
        self.set_actions([Argue])
        self._watch([UserRequirement, Argue])

    async def _observe(self) -> int:
        await super()._observe()
        self.rc.news = [message for message in self.rc.news if message.send_to == {self.name}]
        return len(self.rc.news)

    async def _act(self) -> Message:
        memories = self.get_memories()
        context = "\n".join(f"{message.sent_from}: {message.content}" for message in memories)
        answer = await self.rc.todo.run(context=context, name=self.name, opponent=self.opponent)
        return Message(content=answer, role=self.profile, cause_by=Argue, sent_from=self.name, send_to=self.opponent)


async def debate(idea: str):
    ann = Debater(name="Ann", profile="Optimist", opponent="Bo")
    bo = Debater(name="Bo", profile="Pessimist", opponent="Ann")
    team = Team(env=Environment(desc="a debate on the radio"))
    team.hire([ann, bo])
    team.invest(2)
    team.run_project(idea, send_to="Ann")
    await team.run(n_round=4)


if __name__ == "__main__":
    asyncio.run(debate("Is rain good?"))
