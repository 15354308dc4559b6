"""What can be a slot: everything else is refused at decoration, in a sentence (DESIGN §3)."""

import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import pytest
from pydantic import BaseModel
from pydantic_ai.messages import ModelRequest

from hetero_agents import Fits, NotSent, OneOf, SlotDefinitionError, slot

if TYPE_CHECKING:
    from nowhere import Missing  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

T = TypeVar("T")


class Item(BaseModel):
    title: str


class Box(BaseModel, Generic[T]):
    inside: T


class Handle:
    """What pydantic cannot serialise."""


def refusal(declare: Callable[..., Any], **options: Any) -> str:
    with pytest.raises(SlotDefinitionError) as caught:
        slot(name="contract.wrong", **options)(declare)
    return str(caught.value)


# -- what is refused at decoration -----------------------------------------------------------------


def test_a_method_is_refused_at_decoration() -> None:
    class Desk:
        async def classify(self, text: str) -> str: ...

    assert "is a method of" in refusal(Desk.classify)


def test_variable_positional_parameters_are_refused() -> None:
    async def classify(*texts: str) -> str: ...

    assert "takes *texts; a contract names each parameter" in refusal(classify)


def test_variable_keyword_parameters_are_refused() -> None:
    async def classify(**texts: str) -> str: ...

    assert "takes **texts; a contract names each parameter" in refusal(classify)


def test_positional_only_parameters_are_refused() -> None:
    async def classify(text: str, /) -> str: ...

    assert "positional-only parameter 'text'; remove the `/`" in refusal(classify)


def test_a_sync_function_is_refused() -> None:
    def classify(text: str) -> str: ...

    assert "declare it `async def` (sync callers use .sync)" in refusal(classify)


def test_an_unbound_type_variable_is_refused() -> None:
    async def classify(text: str) -> list[T]: ...  # pyright: ignore[reportInvalidTypeVarUse]

    assert "unbound TypeVar in 'return'" in refusal(classify)


def test_a_generic_model_without_its_type_is_refused() -> None:
    async def classify(box: Box) -> str: ...  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]

    assert "unbound TypeVar in 'box'" in refusal(classify)  # pyright: ignore[reportUnknownArgumentType]


def test_a_generic_model_with_its_type_is_a_contract() -> None:
    @slot(name="contract.box")
    async def unpack(box: Box[int]) -> int: ...

    assert unpack.contract.dump({"box": Box[int](inside=3)}) == {"box": {"inside": 3}}


def test_an_unannotated_parameter_is_refused() -> None:
    async def classify(text) -> str: ...  # type: ignore[no-untyped-def]  # pyright: ignore

    assert "has no type for its parameter 'text'" in refusal(classify)  # pyright: ignore[reportUnknownArgumentType]


def test_a_missing_return_type_is_refused() -> None:
    async def classify(text: str): ...

    assert "has no return type" in refusal(classify)


def test_code_in_the_body_is_refused() -> None:
    async def classify(text: str) -> str:
        return text

    assert "has code in its body, which would never run" in refusal(classify)


def test_a_constant_in_the_body_is_refused() -> None:
    async def classify(text: str) -> str:
        """Name it."""
        return "always this"

    assert "has code in its body, which would never run" in refusal(classify)


def test_returning_none_is_refused() -> None:
    async def classify(text: str) -> None: ...

    assert "returns None; a slot is a question" in refusal(classify)


def test_an_unserialisable_parameter_is_refused() -> None:
    async def classify(handle: Handle) -> str: ...

    assert "cannot send its parameter 'handle' (Handle)" in refusal(classify)


def test_an_unserialisable_answer_is_refused() -> None:
    async def classify(text: str) -> Handle: ...

    assert "cannot send its return type (Handle)" in refusal(classify)


def test_a_mark_on_a_parameter_is_refused() -> None:
    async def classify(text: Annotated[str, OneOf("tools")], tools: list[str]) -> str: ...

    assert "on its parameter 'text'; it stands on the return type" in refusal(classify)


@pytest.mark.parametrize("mark", [OneOf("tool"), Fits("tool")])
def test_a_mark_that_names_no_parameter_says_which_there_are(mark: OneOf | Fits) -> None:
    async def classify(text: str, tools: list[str]) -> Annotated[str, mark]: ...

    assert "no parameter of that name; name one of 'text', 'tools'" in refusal(classify)


def test_one_of_a_parameter_that_is_no_list_of_strings_is_refused() -> None:
    async def classify(tools: str) -> Annotated[str, OneOf("tools")]: ...

    assert "OneOf needs a parameter of type list[str] or dict[str, str], 'tools' is str" in refusal(classify)


def test_one_of_described_options_takes_descriptions_that_are_texts_alone() -> None:
    async def classify(tools: dict[str, list[str]]) -> Annotated[str, OneOf("tools")]: ...

    assert "'tools' is dict[str, list[str]]" in refusal(classify)


def test_one_of_with_another_return_type_than_str_is_refused() -> None:
    async def classify(tools: list[str]) -> Annotated[int, OneOf("tools")]: ...

    assert "OneOf needs the return type str or str | None, not int" in refusal(classify)


def test_fits_with_a_parameter_that_is_no_schema_is_refused() -> None:
    async def classify(parameters: str) -> Annotated[dict[str, Any], Fits("parameters")]: ...

    assert "Fits needs a parameter of type dict[str, Any] (a JSON Schema), 'parameters' is str" in refusal(classify)


def test_fits_with_another_return_type_than_dict_is_refused() -> None:
    async def classify(parameters: dict[str, Any]) -> Annotated[str, Fits("parameters")]: ...

    assert "Fits needs the return type dict[str, Any], not str" in refusal(classify)


def test_two_marks_are_refused() -> None:
    async def classify(a: list[str], b: list[str]) -> Annotated[str, OneOf("a"), OneOf("b")]: ...

    assert "more than one OneOf or Fits; keep one" in refusal(classify)


def test_a_mark_may_not_name_what_is_not_sent() -> None:
    async def classify(tools: Annotated[list[str], NotSent]) -> Annotated[str, OneOf("tools")]: ...

    assert "but that parameter is NotSent" in refusal(classify)


def test_a_mark_deeper_in_the_return_type_is_refused_and_not_ignored() -> None:
    async def inside_union(tools: list[str]) -> Annotated[str, OneOf("tools")] | None: ...
    async def inside_list(tools: list[str]) -> list[Annotated[str, OneOf("tools")]]: ...

    assert "OneOf" in refusal(inside_union)
    assert "OneOf" in refusal(inside_list)


# -- hints and instructions ------------------------------------------------------------------------


def test_an_unresolvable_hint_is_one_sentence_at_the_first_call_and_not_at_decoration() -> None:
    @slot(name="contract.forward")
    async def forward(text: "Missing") -> str: ...  # pyright: ignore[reportUnknownParameterType]

    with pytest.raises(SlotDefinitionError, match=r"type hint that does not resolve \(name 'Missing' is not defined\)"):
        forward.contract.bind(("x",), {})


def test_a_name_defined_after_the_slot_resolves_at_the_first_call() -> None:
    @slot(name="contract.later")
    async def later(text: str) -> "Later": ...

    globals()["Later"] = Later = type("Later", (BaseModel,), {"__annotations__": {"n": int}, "__module__": __name__})
    try:
        assert isinstance(later.contract.validate({"n": 1}, {}), Later)
    finally:
        del globals()["Later"]


if TYPE_CHECKING:
    Later = Item


def test_the_instruction_is_the_cleaned_docstring() -> None:
    @slot(name="contract.doc")
    async def doc(text: str) -> str:
        """Name it.

        Two words at most.
        """
        ...

    assert doc.contract.instructions == "Name it.\n\nTwo words at most."


def test_instructions_given_to_the_decorator_come_before_the_docstring() -> None:
    @slot(name="contract.given", instructions="  From outside.")
    async def given(text: str) -> str:
        """From inside."""
        ...

    assert given.contract.instructions == "From outside."


def test_a_slot_without_any_instruction_sends_none() -> None:
    @slot(name="contract.bare")
    async def bare(text: str) -> str: ...

    [request] = bare.contract.messages({"text": "x"})
    assert isinstance(request, ModelRequest)
    assert request.instructions is None


def test_decoration_works_without_docstrings() -> None:
    program = (
        "from hetero_agents import slot\n"
        "@slot(instructions='Name it.')\n"
        "async def a(text: str) -> str:\n    '''Lost.'''\n    ...\n"
        "@slot\n"
        "async def b(text: str) -> str:\n    '''Lost.'''\n"
        "print([a.contract.instructions, b.contract.instructions])\n"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("['Name it.', '']\n", "")
