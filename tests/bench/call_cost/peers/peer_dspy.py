# pyright: basic, reportMissingImports=false
"""A DSPy `Predict` with the JSON adapter, its cache off."""

import dspy
from measure import BASE_URL, measure


class Intent(dspy.Signature):
    """Name the intent."""

    message: str = dspy.InputField()
    label: str = dspy.OutputField()


dspy.configure(lm=dspy.LM("openai/m", api_base=BASE_URL, api_key="x", cache=False), adapter=dspy.JSONAdapter())
predict = dspy.Predict(Intent)


async def intent() -> str:
    return (await predict.acall(message="refund A1")).label


measure("dspy", "dspy", intent)
