//! The schemas: those of the types that the doors speak, and the few that only a stream has.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{RefOr, path::Parameter, schema::Schema},
};

use crate::{
    openapi,
    operations::{ListConversations, ListMessages},
    problem::ProblemBody,
    rest::events::StreamEvents,
    socket::{Authenticate, Authenticated, Connect, ConnectError, Connected, ReceiptForm, Resume, SendForm},
    terms, wire,
};

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The one argument of an ack: exactly one of `result` and `problem`.
pub(super) fn ack(result: &str, replayable: bool) -> Value {
    let mut properties = json!({"result": reference(result)});
    if replayable {
        properties["replayed"] = json!({
            "type": "boolean",
            "description": "`true` where it was recorded before with the same key, and then only",
        });
    }
    let done = json!({"type": "object", "required": ["result"], "properties": properties});
    json!({"oneOf": [done, reference("Refusal")]})
}

pub(super) fn schemas() -> Value {
    let mut types = BTreeMap::new();
    add::<ProblemBody>(&mut types);
    add::<wire::Event<'_>>(&mut types);
    add::<wire::EventPage<'_>>(&mut types);
    add::<wire::Ready<'_>>(&mut types);
    add::<wire::Reset<'_>>(&mut types);
    add::<wire::Heartbeat>(&mut types);
    add::<wire::Expiring>(&mut types);
    add::<wire::Closing<'_>>(&mut types);
    add::<wire::Message<'_>>(&mut types);
    add::<wire::History<'_>>(&mut types);
    add::<wire::Conversations<'_>>(&mut types);
    add::<wire::Receipt<'_>>(&mut types);
    add::<wire::Attachment>(&mut types);
    // Those of parameters, which nothing gathers.
    add::<terms::Bound>(&mut types);
    add::<Connect>(&mut types);
    add::<Connected<'_>>(&mut types);
    add::<ConnectError<'_>>(&mut types);
    add::<SendForm>(&mut types);
    add::<ReceiptForm>(&mut types);
    add::<Resume>(&mut types);
    add::<Authenticate>(&mut types);
    add::<Authenticated>(&mut types);
    openapi::flatten(&mut types);
    let named = types
        .into_iter()
        .map(|(name, schema)| (name, of_json_schema(json!(schema))));
    let mut schemas: Map<_, _> = named.collect();
    for with_bytes in ["Message", "SendData"] {
        schemas[with_bytes]["properties"]["data"] = json!({
            "oneOf": [reference("Base64"), reference("Attachment")],
            "description": "Bytes on socket.io, in both directions, where base64 is taken too; base64 over HTTP.",
        });
    }
    schemas.insert(
        "ListMessages".into(),
        of_parameters(ListMessages::into_params(|| None)),
    );
    schemas.insert(
        "ListConversations".into(),
        of_parameters(ListConversations::into_params(|| None)),
    );
    schemas.insert(
        "StreamEvents".into(),
        of_parameters(StreamEvents::into_params(|| None)),
    );
    let refusal = json!({
        "type": "object",
        "required": ["problem"],
        "properties": {"problem": reference("Problem")},
        "description": "Why a command was refused.",
    });
    schemas.insert("Refusal".into(), refusal);
    let nothing = json!({"type": "object", "properties": {}, "description": "There is nothing to say."});
    schemas.insert("Nothing".into(), nothing);
    let other = json!({
        "type": ["null", "boolean", "number", "string", "array", "object"],
        "description": "Whatever it is, it is refused.",
        "x-any": true,
    });
    schemas.insert("Other".into(), other);
    schemas.into()
}

fn add<T: ToSchema>(types: &mut BTreeMap<String, RefOr<Schema>>) {
    let mut nested = Vec::new();
    T::schemas(&mut nested);
    types.extend(nested);
    types.insert(T::name().into_owned(), T::schema());
}

/// The parameters of a query, as socket.io has them: the fields of one object.
fn of_parameters(parameters: Vec<Parameter>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for parameter in parameters {
        let parameter = openapi::never_null(parameter);
        let described = json!(parameter);
        let mut schema = of_json_schema(described["schema"].clone());
        schema["description"] = described["description"].clone();
        if described["required"] == true {
            required.push(described["name"].clone());
        }
        properties.insert(parameter.name, schema);
    }
    let mut object = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        object["required"] = required.into();
    }
    object
}

/// OpenAPI's `example` is JSON Schema's `examples`.
fn of_json_schema(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(fields) => {
            if let Some(example) = fields.remove("example") {
                fields.insert("examples".into(), json!([example]));
            }
            for (name, field) in fields.iter_mut() {
                if name == "properties" {
                    let properties = field.as_object_mut().into_iter().flatten();
                    properties.for_each(|(_, property)| *property = of_json_schema(property.take()));
                } else if name != "examples" {
                    *field = of_json_schema(field.take());
                }
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| *item = of_json_schema(item.take())),
        _ => {}
    }
    schema
}
