//! The two documents, read from the binary as a client's author reads them, and held to what the server says.
//!
//! The published schemas are open, because the contract is additive. Here they are closed: a field that the server of
//! today writes and its own document does not know is an error.

use serde_json::{Map, Value, json};

use crate::{run_alone, schemas::Validator};

#[derive(Debug)]
pub struct Document {
    pub value: Value,
    closed: Value,
}

impl Document {
    pub async fn openapi() -> Document {
        Document::printed("openapi").await
    }

    pub async fn asyncapi() -> Document {
        Document::printed("asyncapi").await
    }

    async fn printed(command: &str) -> Document {
        let printed = run_alone(&[command], &[]).await;
        assert_eq!(printed.code, 0, "{printed:?}");
        let value: Value = serde_json::from_str(&printed.stdout).expect("a document is JSON");
        let mut closed = value.clone();
        close(&mut closed);
        Document { value, closed }
    }

    /// The node of the document at a JSON pointer.
    pub fn at(&self, pointer: &str) -> &Value {
        let node = self.value.pointer(pointer);
        node.unwrap_or_else(|| panic!("the document has nothing at {pointer}"))
    }

    /// What a `$ref` stands for, as often as one does.
    pub fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node["$ref"].as_str() {
            Some(reference) => self.resolve(self.at(reference.trim_start_matches('#'))),
            None => node,
        }
    }

    /// The schema at a JSON pointer, closed.
    pub fn validator(&self, pointer: &str) -> Validator {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": self.closed["components"],
            "allOf": [self.closed.pointer(pointer).unwrap_or_else(|| panic!("no schema at {pointer}"))],
        });
        Validator::new(&schema)
    }

    /// What is wrong with a value by the schema at a JSON pointer, or nothing.
    pub fn wrong(&self, pointer: &str, value: &Value) -> String {
        self.validator(pointer).wrong(value).join("\n")
    }

    /// Panics where a value is not what the schema at a JSON pointer says.
    pub fn check(&self, pointer: &str, value: &Value) {
        let wrong = self.wrong(pointer, value);
        assert!(wrong.is_empty(), "{pointer}: {wrong}\n{value}");
    }
}

/// Nothing but what a schema names, in any schema of the tree.
fn close(node: &mut Value) {
    match node {
        Value::Object(fields) => {
            if is_object_schema(fields) {
                fields.insert("additionalProperties".into(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn is_object_schema(fields: &Map<String, Value>) -> bool {
    fields.get("type") == Some(&json!("object")) && fields.contains_key("properties")
}

/// The JSON pointer of a path through a document.
pub fn pointer(path: &[&str]) -> String {
    path.iter()
        .map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1")))
        .collect()
}
