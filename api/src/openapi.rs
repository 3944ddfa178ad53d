//! What the OpenAPI document has beside the operations, and every refusal of every operation. The tests of the doors hold
//! each refusal that they see to the list here. [`documents`](crate::documents) puts the document together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use utoipa::{
    OpenApi,
    openapi::{
        Content, OpenApi as Document, Ref, RefOr, Response,
        example::ExampleBuilder,
        header::HeaderBuilder,
        path::{Operation, Parameter},
        response::ResponseBuilder,
        schema::{Object, Schema, SchemaType, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{
    problem::{Code, LostCursor, Problem, ProblemBody},
    terms, wire,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Chat System",
        description = "People and programs send messages to each other and never miss one.\n\nThe contract is additive: \
            fields, types of events, named events and codes may come, and none goes or changes. **Ignore what you do \
            not know.** Numbers stay below 2^53. Every refusal is a problem (RFC 9457) with a `code`; 503 says \
            with `retry_after` when to come again, and so does 429.\n\nWhat comes over a stream is described by the \
            AsyncAPI document beside this one: [asyncapi.json](../asyncapi.json).",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "messages", description = "Send them, and read them again"),
        (name = "conversations", description = "Who with, how many, how many unread"),
        (name = "receipts", description = "Received and read"),
        (name = "events", description = "What happens, as it happens, without a gap"),
        (name = "operation", description = "Is it alive, can it serve"),
        (name = "development", description = "Only without a key, and only on this machine"),
    ),
    components(schemas(ProblemBody, wire::Event<'_>, wire::Ready<'_>, wire::Reset<'_>, wire::Heartbeat, wire::Expiring, wire::Closing<'_>,
        // Those of parameters, which nothing gathers.
        terms::UserId, terms::CommandKey, terms::MessageId, terms::Bound, terms::AfterOrNow)),
    security(("bearer" = [])),
)]
struct Frame;

/// The document without its operations.
pub fn frame() -> Document {
    let mut frame = Frame::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(
            "A JWT: `sub` is the user id, `exp` is required. HS256 with a secret, or RS256, ES256 and EdDSA with the \
             keys of whoever signs. A service has the claim `scope`, with `chat.send_as` (the header `Act-As`) and \
             `chat.read_all` (`all=true` of `/v1/events`).",
        ));
    let access_token = ApiKeyValue::with_description(
        "access_token",
        "The same token, for a client that cannot send headers: a browser's `EventSource`. It is in no log of the server.",
    );
    let components = frame.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    components.add_security_scheme(
        "access_token",
        SecurityScheme::ApiKey(ApiKey::Query(access_token)),
    );
    frame
}

/// Adds to the operations of a table what their handlers do not say: every refusal, and the headers of every answer.
pub(crate) fn complete(mut document: Document) -> Document {
    if let Some(components) = &mut document.components {
        flatten(&mut components.schemas);
    }
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            operation
                .parameters
                .iter_mut()
                .flatten()
                .for_each(make_never_null);
            add_refusals(operation);
            add_headers(operation);
        }
    }
    document
}

/// What serde flattens comes as `allOf`; on the wire it is one object, and so it is here.
pub(crate) fn flatten(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let mut parts = BTreeSet::new();
    // What is flattened into something flattened takes another turn.
    for _ in 0..2 {
        let all = schemas.clone();
        for schema in schemas.values_mut() {
            let RefOr::T(Schema::AllOf(composed)) = schema else {
                continue;
            };
            let mut object = Object::builder()
                .description(composed.description.clone())
                .build();
            for item in &composed.items {
                // What is flattened and optional is one of it and null.
                let item = match item {
                    RefOr::T(Schema::OneOf(either)) => {
                        either.items.iter().find(|item| matches!(item, RefOr::Ref(_)))
                    }
                    item => Some(item),
                };
                let item = match item {
                    Some(RefOr::Ref(reference)) => {
                        let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
                        parts.insert(name.to_owned());
                        all.get(name)
                    }
                    inline => inline,
                };
                if let Some(RefOr::T(Schema::Object(part))) = item {
                    if part.additional_properties.is_some() {
                        object.additional_properties = part.additional_properties.clone();
                    }
                    object.required.extend(part.required.iter().cloned());
                    let properties = part.properties.iter();
                    object
                        .properties
                        .extend(properties.map(|(name, schema)| (name.clone(), schema.clone())));
                }
            }
            *schema = RefOr::T(Schema::Object(object));
        }
    }
    for part in parts {
        let reference = format!("\"#/components/schemas/{part}\"");
        if !serde_json::to_string(schemas)
            .unwrap_or_default()
            .contains(&reference)
        {
            schemas.remove(&part);
        }
    }
}

/// The codes with which an operation may be refused. Any route may also answer `internal`, `request_invalid` and
/// `headers_too_large`, and all but those that say how the server is `too_many_connections`.
pub fn refusals(operation_id: &str) -> Vec<Code> {
    use Code::*;
    const TOKEN: &[Code] = &[TokenMissing, TokenInvalid, TokenExpired, NotReady, ScopeMissing];
    const BODY: &[Code] = &[
        ParameterInvalid,
        JsonInvalid,
        BodyInvalid,
        BodyIncomplete,
        BodyTimeout,
        BodyTooLarge,
        MediaTypeUnsupported,
        Overloaded,
    ];
    const READ: &[Code] = &[RateLimited, Overloaded, Unavailable];
    const COMMAND: &[Code] = &[KeyInvalid, KeyReused, CommandRefused, Unavailable, OutcomeUnknown];
    let lists: &[&[Code]] = match operation_id {
        "send_message" => &[
            TOKEN,
            BODY,
            COMMAND,
            &[
                UserIdInvalid,
                ContentMissing,
                ContentAmbiguous,
                ContentTypeInvalid,
                DataInvalid,
            ],
            &[ContentTooLarge, ContentEmpty, RateLimited, TooManyConversations],
        ],
        "list_messages" => &[TOKEN, READ, &[ParameterInvalid, UserIdInvalid]],
        "get_message" => &[TOKEN, READ, &[ParameterInvalid, MessageNotFound]],
        "list_conversations" => &[TOKEN, READ, &[ParameterInvalid]],
        "send_receipt" => &[TOKEN, BODY, COMMAND, &[UserIdInvalid, MessageNotFound]],
        "stream_events" => &[
            TOKEN,
            &[ParameterInvalid, CursorInvalid, NotAcceptable, CursorReset],
            &[Starting, Shutdown, RateLimited, Overloaded],
        ],
        "check_readiness" => &[&[NotReady]],
        "create_development_token" => &[BODY, &[UserIdInvalid, DevHostRefused, RouteNotFound]],
        _ => &[],
    };
    let full: &[Code] = match operation_id {
        "check_health" | "check_readiness" => &[],
        _ => &[TooManyConnections],
    };
    lists
        .iter()
        .chain([&full, &[RequestInvalid, HeadersTooLarge, Internal].as_slice()])
        .flat_map(|list| list.iter().copied())
        .collect()
}

fn make_never_null(parameter: &mut RefOr<Parameter>) {
    if let RefOr::T(parameter) = parameter {
        *parameter = never_null(parameter.clone());
    }
}

/// A parameter that is absent is absent: no query and no header can say null.
pub(crate) fn never_null(mut parameter: Parameter) -> Parameter {
    match &mut parameter.schema {
        Some(RefOr::T(Schema::Object(object))) => {
            if let SchemaType::Array(types) = &object.schema_type
                && let Some(kind) = types.iter().find(|kind| **kind != Type::Null)
            {
                object.schema_type = SchemaType::Type(kind.clone());
            }
        }
        Some(RefOr::T(Schema::OneOf(either))) => {
            let named = either.items.iter().find(|item| matches!(item, RefOr::Ref(_)));
            parameter.schema = named.cloned();
        }
        _ => {}
    }
    parameter
}

fn add_refusals(operation: &mut Operation) {
    let codes = refusals(operation.operation_id.as_deref().unwrap_or_default());
    let mut by_status = BTreeMap::<u16, Vec<Code>>::new();
    for code in codes {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    for (status, codes) in by_status {
        operation
            .responses
            .responses
            .insert(status.to_string(), RefOr::T(refusal(&codes)));
    }
}

fn refusal(codes: &[Code]) -> Response {
    let lines: Vec<_> = codes
        .iter()
        .map(|code| format!("`{}`: {}", code.as_str(), code.title()))
        .collect();
    let examples = codes.iter().map(|code| {
        (
            code.as_str(),
            ExampleBuilder::new().value(Some(example(*code))).build(),
        )
    });
    let content = Content::builder()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter(examples)
        .build();
    ResponseBuilder::new()
        .description(lines.join("\n\n"))
        .content("application/problem+json", content)
        .build()
}

/// A problem with this code.
pub(crate) fn example(code: Code) -> Value {
    let mut problem = Problem::new(code);
    if code == Code::CursorReset {
        problem.lost = Some(Box::new(LostCursor {
            cursor: "k7f3q2:5230".into(),
            reason: "other_epoch",
            oldest: 1,
        }));
    }
    json!(problem.body(Some("4f1c2b3a")))
}

/// The headers of the answers: those that every answer has, and those of a refusal.
fn add_headers(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else {
            continue;
        };
        for (name, header) in &mut response.headers {
            if let RefOr::T(header) = header {
                header.example = Some(json!(match name.as_str() {
                    "Location" => "/v1/messages/4182",
                    "Link" => r#"</v1/messages?with=bob&before=4182&limit=50>; rel="next""#,
                    _ => "true",
                }));
            }
        }
        let mut add = |name: &str, description: &str, kind, example: Value| {
            let header = HeaderBuilder::new()
                .schema(Some(Object::with_type(kind)))
                .description(Some(description))
                .example(Some(example))
                .build();
            response.headers.insert(name.to_owned(), RefOr::T(header));
        };
        let id =
            "What the server's log calls this request: yours, where it is 1 to 64 of `A-Z a-z 0-9 . _ -`";
        add("X-Request-Id", id, Type::String, json!("4f1c2b3a"));
        add(
            "Cache-Control",
            "`no-store`: it is for whoever asked, at this moment",
            Type::String,
            json!("no-store"),
        );
        match status.as_str() {
            "401" => {
                let challenge = r#"Bearer realm="chat-system""#;
                add(
                    "WWW-Authenticate",
                    "What is wrong with the token (RFC 6750)",
                    Type::String,
                    json!(challenge),
                );
            }
            "429" | "503" => {
                let description =
                    "Seconds after which the same request may succeed: the problem's `retry_after`";
                add("Retry-After", description, Type::Integer, json!(1));
            }
            _ => {}
        }
    }
}
