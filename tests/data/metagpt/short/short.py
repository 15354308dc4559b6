"""The short form, without classes; all of them hear all that is said."""

import asyncio

from metagpt.actions import Action, UserRequirement
from metagpt.roles import Role
from metagpt.team import Team

say_yes = Action(name="SayYes", instruction="Agree, with one more reason.")
talk = Action(name="Talk", instruction="Say what you think.")
yes = Role(name="Yes", profile="Friend", goal="Agree", actions=[say_yes], watch=[UserRequirement, talk])
one = Role(name="One", profile="Guest", actions=[talk], watch=[say_yes, talk])
two = Role(name="Two", profile="Guest", actions=[talk], watch=[talk])

asyncio.run(Team(investment=10.0, roles=[yes, one, two]).run(idea="Is snow good?", n_round=3))
