//! The OpenAPI document: from the handlers themselves, with every refusal of every operation.
//!
//! `openapi/openapi.json` in the repository is what `chat-system openapi` prints; a test holds them together, and the
//! tests of the doors hold each refusal that they see to the list here.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::{
    OpenApi,
    openapi::{
        Content, OpenApi as Document, Ref, RefOr, Response,
        example::ExampleBuilder,
        path::{Operation, Parameter},
        response::ResponseBuilder,
        schema::{Schema, SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{
    problem::{Code, Problem, ProblemBody},
    router, wire,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Chat System",
        description = "People and programs send messages to each other and never miss one.\n\nThe contract is additive: \
            fields, types of events, named events and codes may come, and none goes or changes. **Ignore what you do \
            not know.** Numbers stay below 2^53. Every refusal is a problem (RFC 9457) with a `code`; 503 says \
            with `retry_after` when to come again, and so does 429.",
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
    components(schemas(ProblemBody, wire::Event<'_>, wire::Ready<'_>, wire::Reset<'_>, wire::Heartbeat, wire::Expiring, wire::Closing<'_>)),
    security(("bearer" = [])),
)]
struct Frame;

/// The document without its operations.
pub fn frame() -> Document {
    let mut frame = Frame::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("HS256; `sub` is the user id, `exp` is required."));
    let components = frame.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    frame
}

/// The whole document.
pub fn document() -> Document {
    let table = router::table().merge(router::development_table());
    let mut document = table.into_openapi();
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            operation
                .parameters
                .iter_mut()
                .flatten()
                .for_each(make_never_null);
            add_refusals(operation);
        }
    }
    document
}

/// The document as the repository holds it.
pub fn pretty() -> String {
    let mut text = document()
        .to_pretty_json()
        .expect("a document of strings and numbers serialises");
    text.push('\n');
    text
}

/// The codes with which an operation may be refused. Any route may also answer `internal`, and `headers_too_large`.
pub fn refusals(operation_id: &str) -> Vec<Code> {
    use Code::*;
    const TOKEN: &[Code] = &[TokenMissing, TokenInvalid, TokenExpired, NotReady, ScopeMissing];
    const BODY: &[Code] = &[
        JsonInvalid,
        BodyInvalid,
        BodyIncomplete,
        BodyTimeout,
        BodyTooLarge,
        MediaTypeUnsupported,
        Overloaded,
    ];
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
            &[ContentTooLarge, ContentEmpty, RateLimited],
        ],
        "list_messages" => &[TOKEN, &[ParameterInvalid, UserIdInvalid, Unavailable]],
        "get_message" => &[TOKEN, &[ParameterInvalid, MessageNotFound, Unavailable]],
        "list_conversations" => &[TOKEN, &[ParameterInvalid, Unavailable]],
        "send_receipt" => &[TOKEN, BODY, COMMAND, &[UserIdInvalid, MessageNotFound]],
        "stream_events" => &[
            TOKEN,
            &[ParameterInvalid, CursorInvalid, NotAcceptable, CursorReset],
            &[Starting, Shutdown, Overloaded, TooManyConnections, Unavailable],
        ],
        "check_readiness" => &[&[NotReady]],
        "create_development_token" => &[BODY, &[UserIdInvalid, DevHostRefused]],
        _ => &[],
    };
    lists
        .iter()
        .flat_map(|list| list.iter().copied())
        .chain([HeadersTooLarge, Internal])
        .collect()
}

/// A parameter that is absent is absent: no query and no header can say null.
fn make_never_null(parameter: &mut RefOr<Parameter>) {
    if let RefOr::T(parameter) = parameter
        && let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
        && let SchemaType::Array(types) = &object.schema_type
        && let Some(kind) = types.iter().find(|kind| **kind != Type::Null)
    {
        object.schema_type = SchemaType::Type(kind.clone());
    }
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
        let problem = json!(Problem::new(*code).body(Some("4f1c2b3a")));
        (code.as_str(), ExampleBuilder::new().value(Some(problem)).build())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_what_the_server_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/openapi.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == pretty(),
            "run `make openapi` (chat-system openapi > openapi/openapi.json)"
        );
    }

    #[test]
    fn every_operation_is_named_for_its_handler_and_has_its_refusals() {
        let document = json!(document());
        let mut names = Vec::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                names.push(operation["operationId"].as_str().unwrap().to_owned());
                assert!(operation["responses"]["500"].is_object(), "{operation}");
            }
        }
        names.sort();
        assert_eq!(
            names,
            [
                "check_health",
                "check_readiness",
                "create_development_token",
                "get_message",
                "list_conversations",
                "list_messages",
                "send_message",
                "send_receipt",
                "stream_events",
            ]
        );
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["license"]["name"], "MIT OR Apache-2.0");
    }
}
