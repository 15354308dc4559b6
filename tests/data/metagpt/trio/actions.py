import re

from metagpt.actions import Action

LANGUAGE = "Python"

REVIEW = """Review the tests below: name one case that they miss.

{tests}
"""


class WriteFunction(Action):
    """Writes the function that was asked for."""

    name: str = "WriteFunction"
    PROMPT_TEMPLATE: str = """
    Write a {language} function for this request: {request}
    Answer with ```python your_code ``` and nothing else.
    """

    async def run(self, request: str):
        prompt = self.PROMPT_TEMPLATE.format(request=request, language=LANGUAGE)
        answer = await self._aask(prompt)
        return WriteFunction.only_code(answer)

    @staticmethod
    def only_code(answer):
        found = re.search(r"```python(.*)```", answer, re.DOTALL)
        return found.group(1) if found else answer


class WriteTests(Action):
    name: str = "WriteTests"
    PROMPT_TEMPLATE: str = """
    Here is some code: {code}
    Write {k} pytest cases for it.
    """

    async def run(self, code: str, k: int = 3):
        return await self._aask(self.PROMPT_TEMPLATE.format(code=code, k=k))


class ReviewTests(Action):
    async def run(self, tests: str):
        prompt = REVIEW.format(tests=tests)
        return await self._aask(prompt, ["You are strict."])
