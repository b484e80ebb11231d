"""JSON Schemas and examples of pydantic models, for the OpenAPI document. Runs in the front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from ipc.engines import Json

REF = "#/components/schemas/{model}"


class _Untitled(GenerateJsonSchema):
    """Omits the titles that pydantic derives from names: they add no information."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schemas_of(models: Iterable[type[BaseModel]]) -> dict[str, Json]:
    """The schemas of `models` and of all models that they contain, by name."""
    models = list(dict.fromkeys(models))
    names = [model.__name__ for model in models]
    assert len(set(names)) == len(names), f"two models have the same name: {names}"
    _, definitions = models_json_schema(
        [(model, "validation") for model in models],
        ref_template=REF,
        schema_generator=_Untitled,
    )
    schemas: dict[str, Json] = definitions["$defs"]
    for name, schema in schemas.items():
        assert schema.pop("title") == name, f"two models are called {name}"
    return schemas


def form_field(schema: Json) -> Json:
    """The schema of a field in a form. A form cannot send null, only leave a field out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        schema = {**schema, **kinds[0]}
        del schema["anyOf"]
    return {key: value for key, value in schema.items() if (key, value) != ("default", None)}


def example(schema: Mapping[str, Any], schemas: Mapping[str, Json]) -> Any:
    """The example of `schema`, or one made from the examples of its parts.

    The example of an object has its required fields and those with an example. Raises
    `LookupError` when a required part has no example.
    """
    given = [*schema.get("examples", ()), *schema.get("enum", ())]
    if "const" in schema:
        given.append(schema["const"])
    if given:
        return given[0]
    if "$ref" in schema:
        return example(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return example(schema["anyOf"][0], schemas)
    if isinstance(kind := schema.get("additionalProperties"), dict):
        return {"name": example(kind, schemas)}
    if schema.get("type") == "array":
        return [example(schema["items"], schemas)]
    if "properties" in schema:
        return _object(schema, schemas)
    raise LookupError(f"no example in {schema}")


def _object(schema: Mapping[str, Any], schemas: Mapping[str, Json]) -> Json:
    required = schema.get("required", ())
    return {
        name: example(field, schemas)
        for name, field in schema["properties"].items()
        if name in required or "examples" in field
    }
