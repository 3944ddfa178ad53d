//! The terms of the contract, as the documents describe them: each has one schema, whose pattern is the grammar that
//! the domain parses. Nothing is ever made of these types; a test of the documents holds patterns and parsers together.

use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, RefOr,
        schema::{Object, Schema, SchemaFormat, Type},
    },
};

/// 1 to 32 of `A-Z a-z 0-9 . _ @ + : -`. Users belong to somebody else's service: one that was never seen before is fine.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 32, pattern = "^[A-Za-z0-9._@+:-]+$", examples("alice"))]
pub struct UserId(pub String);

/// The two user ids sorted bytewise with a comma between, or a room's id (`~…`).
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 2, max_length = 65, pattern = "^([A-Za-z0-9._@+:-]+,[A-Za-z0-9._@+:-]+|~[!-~]+)$", examples("alice,bob"))]
pub struct ConversationId(pub String);

/// A place in the log. Opaque: keep it, and give it back.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 3, max_length = 36, pattern = "^[a-z0-9]{1,16}:(0|[1-9][0-9]{0,18})$", examples("k7f3q2:4182"))]
pub struct Cursor(pub String);

/// A cursor to go on after, or `0`: from the beginning.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 36, pattern = "^(0|[a-z0-9]{1,16}:(0|[1-9][0-9]{0,17}))$", examples("k7f3q2:4177"))]
pub struct After(pub String);

/// As [`After`], or empty: from now, as where it is absent.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 36, pattern = "^(|0|[a-z0-9]{1,16}:(0|[1-9][0-9]{0,17}))$", examples("k7f3q2:4177"))]
pub struct AfterOrNow(pub String);

/// `message.sent`, `receipt.received` or `receipt.read`, and others in the future.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 64, pattern = "^[a-z_]+[.][a-z_]+$", examples("message.sent", "receipt.received", "receipt.read"))]
pub struct EventType(pub String);

/// Why a cursor is lost: the log does not reach as far, it is of a history that went on otherwise, or what came after
/// it is gone. Reasons may come: the consequence is the same.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 64, pattern = "^[a-z_]+$", examples("ahead", "other_epoch", "pruned"))]
pub struct ResetReason(pub String);

/// Names of what a server can do beyond the first version of this contract. Names may come: ignore those that you do not
/// know.
#[derive(ToSchema)]
#[schema(value_type = Vec<String>, max_items = 64, examples(json!([])))]
pub struct Features(pub Vec<String>);

/// The client's own name for a command, unique among those of its user: 1 to 64 visible ASCII characters.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[!-~]+$", examples("c1-88"))]
pub struct CommandKey(pub String);

/// A MIME type with its parameters.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 3, max_length = 127, pattern = "^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+ *(;[ -~]*)?$", examples("image/png"))]
pub struct ContentType(pub String);

/// A MIME type of text: `text/*`, JSON or XML.
#[derive(ToSchema)]
#[schema(
    value_type = String, min_length = 6, max_length = 127, examples("text/plain"),
    pattern = "^([Tt][Ee][Xx][Tt]/[A-Za-z0-9!#$&^_.+-]+|[Aa][Pp][Pp][Ll][Ii][Cc][Aa][Tt][Ii][Oo][Nn]/([Jj][Ss][Oo][Nn]|[Xx][Mm][Ll])|[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]*[+]([Jj][Ss][Oo][Nn]|[Xx][Mm][Ll])) *(;[ -~]*)?$",
)]
pub struct TextualType(pub String);

/// Bytes in base64: the standard alphabet, with padding.
#[derive(ToSchema)]
#[schema(
    value_type = String, content_encoding = "base64", min_length = 4, max_length = 22_369_624, examples("iVBORw0KGgo="),
    pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)$",
)]
pub struct Base64(pub String);

/// What is absent may also be said to be null.
pub(super) fn null() -> Object {
    Object::with_type(Type::Null)
}

macro_rules! numbers {
    ($($(#[doc = $about:literal])+ $name:ident $minimum:expr, $maximum:expr, $example:literal;)+) => {$(
        $(#[doc = $about])+
        pub struct $name;

        impl ToSchema for $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let number = Object::builder()
                    .schema_type(Type::Integer)
                    .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
                    .description(Some(concat!($($about),+).trim()))
                    .minimum(Some($minimum))
                    .maximum(Some($maximum))
                    .examples([json!($example)]);
                RefOr::T(number.build().into())
            }
        }
    )+};
}

/// The largest number that JavaScript writes exactly.
const MOST: i64 = (1 << 53) - 1;

numbers! {
    /// The `_id` of a message: the position of its event in the log. Grows within a conversation; do not compare those of
    /// different conversations, follow the events instead.
    MessageId 1_i64, MOST, 4182;
    /// A position of the log; 0 is before its first. Not to be compared across conversations.
    Position 0_i64, MOST, 5230;
    /// The number of a message in its conversation, which counts 1, 2, 3… without a hole; 0 is before its first.
    Seq 0_i64, MOST, 17;
    /// How many.
    Count 0_i64, MOST, 2;
    /// Seconds since the Unix epoch.
    Seconds 0_i64, MOST, 1_790_000_000;
    /// A bound of a range: any whole number of 64 bits. What lies outside of the log just holds nothing.
    Bound i64::MIN, i64::MAX, 4182;
}

/// Why a request was refused, for programs. Codes are only added: treat one that you do not know by its status.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[a-z][a-z_]*$", examples("content_too_large"))]
pub struct ProblemCode(pub String);
