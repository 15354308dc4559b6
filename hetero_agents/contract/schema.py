"""JSON Schemas and JSON values in the one form in which they are hashed, shown to a model, and answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NewType, cast

if TYPE_CHECKING:
    import jsonschema

Sha256 = NewType("Sha256", str)
"""64 lower-case hexadecimal digits."""

JsonSchema = dict[str, Any]


def sha256_of(value: Any) -> Sha256:
    """Return the SHA-256 of a JSON value in canonical form (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Sha256(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def json_bytes(value: Any) -> bytes:
    """Return a JSON value as bytes without spaces; half a surrogate pair, as in a text that was cut, is kept as it is."""
    return compact_json(value).encode("utf-8", "surrogatepass")


def compact_json(value: Any) -> str:
    """Return a JSON value as text without spaces, keys in their own order."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def canonical_schema(schema: JsonSchema) -> JsonSchema:
    """Return a JSON Schema without titles, with `$defs` inlined, `required` sorted, and the order of properties in `x-order`.

    The order counts: prompts and answers follow it. Two schemas that demand the same are equal afterwards, whatever pydantic version wrote them.
    A definition that refers to itself stays a `$ref`.
    """
    definitions: dict[str, Any] = schema.get("$defs", {})
    recursive: dict[str, Any] = {}

    def walk(node: Any, open_refs: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [walk(item, open_refs) for item in cast(list[Any], node)]
        if not isinstance(node, dict):
            return node
        node = cast(dict[str, Any], node)
        if isinstance(ref := node.get("$ref"), str) and ref.startswith("#/$defs/"):
            name = ref.removeprefix("#/$defs/")
            if name not in definitions:
                return node  # it points inside a definition: left as it stands
            if name in open_refs:
                recursive[name] = None
                return {"$ref": ref}
            inlined = walk(definitions[name], (*open_refs, name))
            if name in recursive:
                recursive[name] = inlined
                inlined = {"$ref": ref}
            rest = {key: walk(value, open_refs) for key, value in node.items() if key not in ("$ref", "title")}
            return {**inlined, **rest}
        out: dict[str, Any] = {}
        for key, value in node.items():
            if key == "$defs" or (key == "title" and isinstance(value, str)):
                continue
            if key == "properties":
                out[key] = {name: walk(part, open_refs) for name, part in value.items()}
                out["x-order"] = list(value)
            elif key == "required":
                out[key] = sorted(value)
            elif key in ("enum", "const", "default", "examples"):
                out[key] = value
            else:
                out[key] = walk(value, open_refs)
        return out

    plain = walk(schema, ())
    return {**plain, "$defs": recursive} if recursive else plain


def schema_text(schema: Any, *, descriptions: bool = False) -> str:
    """Return a JSON Schema as a TypeScript type, which reads the same in a third of the tokens.

    `{city: string, date?: string = "today", kind: "music"|"theater"}`: `?` may be left out, and then
    means the default. A default that its own field does not allow (`"any"` of an integer) is not shown: nobody can answer it, and who
    reads it answers something in its place. The full schema travels as the answer's schema beside the messages.

    Args:
        schema: the schema.
        descriptions: one field a line, with its description behind it as a comment.
    """
    if not isinstance(schema, dict):
        return "any"
    whole = canonical_schema(cast(JsonSchema, schema))
    return _type_text(whole, descriptions, _validator(whole))


def _type_text(schema: Any, descriptions: bool, validator: Any) -> str:
    if not isinstance(schema, dict):
        return "any"
    schema = cast(JsonSchema, schema)
    if "enum" in schema:
        return "|".join(compact_json(value) for value in schema["enum"])
    if "const" in schema:
        return compact_json(schema["const"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return "|".join(_type_text(part, descriptions, validator) for part in schema[key])
    kind = schema.get("type", "object" if "properties" in schema else "any")
    if isinstance(kind, list):
        return "|".join(cast(list[str], kind))
    if kind == "object":
        if "properties" not in schema:
            return "object"
        required = set(schema.get("required", ()))
        fields = (
            f"{name}{'' if name in required else '?'}: {_type_text(part, descriptions, validator)}{_default_text(part, validator)}"
            + (_comment(part) if descriptions else "")
            for name, part in schema["properties"].items()
        )
        return "{\n" + "\n".join(fields) + "\n}" if descriptions else "{" + ", ".join(fields) + "}"
    if kind == "array":
        item = _type_text(schema.get("items", {}), descriptions, validator)
        return f"({item})[]" if "|" in item else f"{item}[]"
    return str(kind)


def _default_text(schema: Any, validator: Any) -> str:
    default = cast(JsonSchema, schema).get("default") if isinstance(schema, dict) else None
    if default is None or not _allows(validator.evolve(schema=schema), default):
        return ""
    return f" = {compact_json(default)}"


def _allows(validator: Any, value: Any) -> bool:
    """Whether a schema allows a value; also where that cannot be told, as with a reference to a definition that was inlined."""
    from jsonschema.exceptions import UnknownType
    from referencing.exceptions import Unresolvable

    try:
        return validator.is_valid(value)
    except (Unresolvable, UnknownType, RecursionError):
        return True


def _comment(schema: Any) -> str:
    said = cast(JsonSchema, schema).get("description") if isinstance(schema, dict) else None
    return f" // {' '.join(said.split())}" if isinstance(said, str) and said.strip() else ""


def described(options: Mapping[str, str]) -> str:
    """Return options with their descriptions, one on a line, in braces like the fields of a `schema_text` with its descriptions."""
    # An option stands as its answer's text: in one line, and it can be told where it ends, whatever it holds.
    lines = (f"{compact_json(name)}: {' '.join(said.split())}".rstrip() for name, said in options.items())
    return "{\n" + "\n".join(lines) + "\n}"


def ordered(value: Any, schema: Any, definitions: JsonSchema, *, sort_sets: bool) -> Any:
    """Return a JSON value with the keys of its objects in the order of their schema, unknown ones last.

    Args:
        value: the value.
        schema: its schema.
        definitions: the schema's `$defs`.
        sort_sets: sort lists of unique items: where the schema is a type's, they are sets, which have no order.
    """
    if not isinstance(schema, dict):
        return value
    schema = _member_of(value, cast(JsonSchema, schema), definitions)
    if isinstance(value, list):
        items = [
            ordered(item, schema.get("items"), definitions, sort_sets=sort_sets) for item in cast(list[Any], value)
        ]
        return sorted(items, key=compact_json) if sort_sets and schema.get("uniqueItems") else items
    if not isinstance(value, dict):
        return value
    value = cast(dict[str, Any], value)
    properties, rest = cast(JsonSchema, schema.get("properties", {})), schema.get("additionalProperties")
    keys = [key for key in properties if key in value] + [key for key in value if key not in properties]
    return {key: ordered(value[key], properties.get(key, rest), definitions, sort_sets=sort_sets) for key in keys}


def _member_of(value: Any, schema: JsonSchema, definitions: JsonSchema) -> JsonSchema:
    """The schema that a value is of: a `$ref` followed, and of a union the member with the value's type and properties."""
    if isinstance(ref := schema.get("$ref"), str):
        return _member_of(value, definitions.get(ref.removeprefix("#/$defs/"), {}), definitions)
    union: list[Any] = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    members = [_member_of(value, cast(JsonSchema, m), definitions) for m in union if isinstance(m, dict)]
    if isinstance(value, list):
        return next((member for member in members if "items" in member), schema)
    if not isinstance(value, dict) or "properties" in schema:
        return schema
    keys = cast(JsonSchema, value).keys()
    named = (member for member in members if "properties" in member and keys <= member["properties"].keys())
    return next(named, next((member for member in members if "additionalProperties" in member), schema))


def check_schema(schema: JsonSchema) -> None:
    """Refuse what is no JSON Schema (2020-12 unless its `$schema` says otherwise).

    Raises:
        jsonschema.SchemaError: it is none.
        referencing.exceptions.Unresolvable: a `$ref` leads elsewhere or nowhere.
    """
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
    resolver = Registry[Any]().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    nodes: list[Any] = [schema]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            entries = cast(dict[str, Any], node)
            if isinstance(ref := entries.get("$ref"), str):
                resolver.lookup(ref)
            nodes += entries.values()
        elif isinstance(node, list):
            nodes += cast(list[Any], node)


def worst_error(value: Any, schema: JsonSchema) -> jsonschema.ValidationError | None:
    """Return the most telling error of a value under a schema, None where it is valid."""
    import jsonschema.exceptions

    best_match = cast(Callable[..., jsonschema.ValidationError | None], vars(jsonschema.exceptions)["best_match"])
    return best_match(_validator(schema).iter_errors(value))


def _validator(schema: JsonSchema) -> Any:
    """A schema's validator, of the form that its `$schema` names; what it refers to outside is not fetched."""
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing import Registry

    form = cast(Any, validator_for(schema, jsonschema.Draft202012Validator))
    return form(schema, registry=Registry[Any]())


def is_object(schema: JsonSchema) -> bool:
    """Return whether every value of a schema is an object."""
    if isinstance(ref := schema.get("$ref"), str):
        return is_object(schema.get("$defs", {}).get(ref.removeprefix("#/$defs/"), {}))
    return schema.get("type") == "object"
