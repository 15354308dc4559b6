# pyright: basic, reportMissingImports=false
"""A MetaGPT team: roles that watch actions, action nodes that say what they fill, messages addressed with `send_to`.

Its answers are not streamed, which is its default, because the endpoint does not stream; and it logs errors only. Each run
has a team of its own, as each project has; the teams are hired before the clocks start.
"""

from pathlib import Path

from crew_pattern import DELIVER, DRAFT, PLAN, REVIEW, TASKS, requirement, task
from measure import BASE_URL, CALLS, WARM_UP, measure

Path.home().joinpath(".metagpt").mkdir(exist_ok=True)
Path.home().joinpath(".metagpt", "config2.yaml").write_text(
    f"llm:\n  api_type: openai\n  model: m\n  base_url: {BASE_URL}\n  api_key: x\n  stream: false\n"
)

# MetaGPT reads its configuration while it is imported.
from metagpt.actions import Action, UserRequirement  # noqa: E402
from metagpt.actions.action_node import ActionNode  # noqa: E402
from metagpt.logs import define_log_level  # noqa: E402
from metagpt.roles import Role  # noqa: E402
from metagpt.schema import Message  # noqa: E402
from metagpt.team import Team  # noqa: E402

define_log_level("ERROR", "ERROR")


class Fill(Action):
    instruction_: str = ""

    async def run(self, history: list[Message]) -> str:
        node = ActionNode(key="label", expected_type=str, instruction=self.instruction_, example="a label")
        filled = await node.fill(context=history[-1].content, llm=self.llm, schema="json")
        return filled.instruct_content.label


class WritePlan(Fill):
    name: str = "WritePlan"
    instruction_: str = PLAN


class WriteDraft(Fill):
    name: str = "WriteDraft"
    instruction_: str = DRAFT


class WriteReview(Fill):
    name: str = "WriteReview"
    instruction_: str = REVIEW


class WriteDelivery(Fill):
    name: str = "WriteDelivery"
    instruction_: str = DELIVER


class Worker(Role):
    """Takes what is addressed to it, and addresses what it wrote."""

    to: str = ""

    async def _act(self) -> Message:
        text = await self.rc.todo.run(self.rc.news)
        return Message(content=text, role=self.profile, cause_by=type(self.rc.todo), sent_from=self, send_to=self.to)


class Planner(Role):
    name: str = "planner"
    profile: str = "planner"

    async def _act(self) -> Message:
        plan = await self.rc.todo.run(self.rc.news)
        for number in range(TASKS):
            told = Message(
                content=task(number, plan), role=self.profile, cause_by=WritePlan, sent_from=self, send_to=f"w{number}"
            )
            self.publish_message(told)
        return None


class Lead(Role):
    name: str = "lead"
    profile: str = "lead"
    delivered: str = ""

    async def _act(self) -> Message:
        reviews = Message(content="\n".join(message.content for message in self.rc.news), cause_by=WriteReview)
        if len(self.rc.news) != TASKS:
            raise SystemExit(f"the lead was told {len(self.rc.news)} reviews")
        self.delivered = await self.rc.todo.run([reviews])
        return None


def hired() -> tuple[Team, Lead]:
    planner, lead = Planner(), Lead()
    planner.set_actions([WritePlan])
    planner._watch([UserRequirement])
    lead.set_actions([WriteDelivery])
    lead._watch([WriteReview])
    writers = [Worker(name=f"w{number}", profile=f"writer {number}", to=f"r{number}") for number in range(TASKS)]
    reviewers = [Worker(name=f"r{number}", profile=f"reviewer {number}", to="lead") for number in range(TASKS)]
    for roles, action in ((writers, WriteDraft), (reviewers, WriteReview)):
        for role in roles:
            role.set_actions([action])
            role._watch([])
    team = Team()
    team.hire([planner, *writers, *reviewers, lead])
    team.invest(1e9)
    return team, lead


teams = [hired() for _ in range(CALLS + WARM_UP)]


async def run() -> str:
    team, lead = teams.pop()
    await team.run(n_round=10, idea=requirement())
    return lead.delivered


measure("crew_metagpt", "metagpt", run)
