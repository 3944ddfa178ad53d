//! The documents themselves: complete, without free forms, true to their own examples, which are sent to a server.

use std::{collections::BTreeSet, fs, time::Duration};

use chat_domain::{
    content::ContentType,
    cursor::After,
    ids::{CommandKey, ConversationId, UserId},
};
use chat_tests::{
    Client, Database, Kind, Reply, Server,
    documents::{Document, pointer},
    plain, reply, run,
    schemas::Validator,
    server::{now, token},
    sized,
};
use futures_util::StreamExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::header::ACCEPT;
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// The only schemas that hold anything, or nothing: what any event of another name may carry, and an ack that says
/// only that it is one.
const WITHOUT_FORM: [&str; 2] = ["/components/schemas/Other", "/components/schemas/Nothing"];

#[tokio::test]
async fn no_schema_of_either_document_is_free() {
    for document in [Document::openapi().await, Document::asyncapi().await] {
        let mut schemas = Vec::new();
        find_schemas(&document.value, String::new(), &mut schemas);
        assert!(schemas.len() > 100, "{}", schemas.len());
        let asked = asked_by_clients(&document);
        assert!(asked.len() > 3, "{asked:?}");
        for (at, schema) in schemas {
            if WITHOUT_FORM.contains(&at.as_str()) {
                continue;
            }
            let fields = schema.as_object().unwrap_or_else(|| panic!("{at}: {schema}"));
            // A server may say more some day, and refuses a client that does.
            let closed = asked.contains(&at).then_some(&Value::Bool(false));
            assert_eq!(fields.get("additionalProperties"), closed, "{at}");
            for open in ["patternProperties", "unevaluatedProperties"] {
                assert!(
                    !fields.contains_key(open),
                    "{at}: {open} is no more than said by the contract"
                );
            }
            let named = ["$ref", "oneOf", "type"]
                .iter()
                .any(|word| fields.contains_key(*word));
            assert!(named, "{at} takes anything: {schema}");
            if schema["type"] == "object" {
                assert!(
                    schema["properties"]
                        .as_object()
                        .is_some_and(|properties| !properties.is_empty()),
                    "{at}"
                );
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                for name in required {
                    assert!(
                        schema["properties"].get(name.as_str().unwrap()).is_some(),
                        "{at} requires {name}"
                    );
                }
            }
            if schema["type"] == "array" {
                assert!(schema["items"].is_object(), "{at}");
            }
        }
        check_references(&document, &document.value, "");
    }
}

/// Where the objects stand that clients send: bodies, commands, and the queries that they are made of.
fn asked_by_clients(document: &Document) -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    let paths = document.value["paths"].as_object().into_iter().flatten();
    for operation in paths.flat_map(|(_, item)| item.as_object().unwrap().values()) {
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        find_objects(document, body, &mut asked);
    }
    let operations = document.value["operations"].as_object().into_iter().flatten();
    for (_, operation) in operations.filter(|(_, operation)| operation["action"] == "receive") {
        let message = document.resolve(&operation["messages"][0]);
        find_objects(document, &message["payload"], &mut asked);
    }
    asked
}

/// The objects that a schema is or may be. What is in their fields may be said by the server as well.
fn find_objects(document: &Document, schema: &Value, found: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.resolve(schema);
        if schema["type"] == "object" {
            found.insert(reference.trim_start_matches('#').to_owned());
        }
        find_objects(document, schema, found);
    }
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        find_objects(document, one, found);
    }
}

/// Every schema below a node, with its JSON pointer.
fn find_schemas<'a>(node: &'a Value, at: String, found: &mut Vec<(String, &'a Value)>) {
    let Some(fields) = node.as_object() else {
        if let Some(items) = node.as_array() {
            for (n, item) in items.iter().enumerate() {
                find_schemas(item, format!("{at}/{n}"), found);
            }
        }
        return;
    };
    for (name, value) in fields {
        let at = format!("{at}{}", pointer(&[name]));
        match name.as_str() {
            // What stands here is no schema, whatever it looks like.
            "example" | "examples" => continue,
            "schema" | "payload" | "items" => found.push((at.clone(), value)),
            "schemas" | "properties" => {
                for (name, schema) in value.as_object().unwrap() {
                    found.push((format!("{at}{}", pointer(&[name])), schema));
                }
            }
            "oneOf" | "allOf" | "anyOf" => {
                for (n, schema) in value.as_array().unwrap().iter().enumerate() {
                    found.push((format!("{at}/{n}"), schema));
                }
            }
            _ => {}
        }
        find_schemas(value, at, found);
    }
}

fn check_references(document: &Document, node: &Value, at: &str) {
    match node {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref") {
                let target = reference.as_str().unwrap().trim_start_matches('#');
                assert!(
                    document.value.pointer(target).is_some(),
                    "{at}: there is no {reference}"
                );
            }
            for (name, value) in fields {
                check_references(document, value, &format!("{at}/{name}"));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| check_references(document, item, at)),
        _ => {}
    }
}

/// Every operation, with its path and method.
fn operations(document: &Document) -> Vec<(&str, &str, &Value)> {
    let mut operations = Vec::new();
    for (path, item) in document.at("/paths").as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((path.as_str(), method.as_str(), operation));
        }
    }
    operations
}

#[tokio::test]
async fn each_operation_says_all_that_a_client_needs() {
    let document = Document::openapi().await;
    let schemes = document.at("/components/securitySchemes").as_object().unwrap();
    for (path, method, operation) in operations(&document) {
        let what = format!("{method} {path}");
        for word in ["operationId", "summary", "tags", "security"] {
            // What is said for all stands at the top.
            assert!(
                operation.get(word).or(document.value.get(word)).is_some(),
                "{what} has no {word}"
            );
        }
        for need in operation["security"].as_array().into_iter().flatten() {
            assert!(
                need.as_object()
                    .unwrap()
                    .keys()
                    .all(|name| schemes.contains_key(name)),
                "{what}: {need}"
            );
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            check_parameter(&document, &what, parameter);
        }
        let at = pointer(&["paths", path, method]);
        if operation.get("requestBody").is_some() {
            check_contents(&document, &format!("{at}/requestBody"));
        }
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{what}");
        for (class, known) in [('4', "431"), ('5', "500")] {
            assert!(responses.contains_key(known), "{what} has no refusal {class}xx");
        }
        for (status, response) in responses {
            check_response(&document, &format!("{at}/responses/{status}"), status, response);
        }
    }
}

fn check_parameter(document: &Document, operation: &str, parameter: &Value) {
    let what = format!("{operation}: {}", parameter["name"]);
    assert!(
        parameter["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{what} has no description"
    );
    let schema = document.resolve(&parameter["schema"]);
    let bounds: &[&str] = match schema["type"].as_str() {
        Some("integer") => &["minimum", "maximum"],
        Some("string") => &["maxLength", "pattern"],
        Some("boolean") => &[],
        other => panic!("{what} is {other:?}"),
    };
    for bound in bounds {
        assert!(schema.get(bound).is_some(), "{what} has no {bound}");
    }
    // What is shown and not sent by itself has its example in the schema: pages fill fields with those of parameters.
    let examples = parameter.get("example").or(schema.pointer("/examples/0"));
    let example = examples.unwrap_or_else(|| panic!("{what} has no example"));
    let schema = json!({"components": document.value["components"], "allOf": [parameter["schema"]]});
    assert!(
        Validator::new(&schema).wrong(example).is_empty(),
        "{what}: {example}"
    );
}

/// Each content has examples, and they are what its schema says.
fn check_contents(document: &Document, at: &str) {
    let contents = document.at(at)["content"].as_object().unwrap();
    assert!(!contents.is_empty(), "{at}");
    for (media_type, content) in contents {
        let schema = format!("{at}/content{}/schema", pointer(&[media_type]));
        let examples = examples(content);
        assert!(!examples.is_empty(), "{at} {media_type} has no example");
        for (_, example) in examples {
            document.check(&schema, example);
        }
    }
}

fn examples(content: &Value) -> Vec<(&str, &Value)> {
    let named = content["examples"].as_object();
    let named = named
        .into_iter()
        .flatten()
        .map(|(name, example)| (name.as_str(), &example["value"]));
    content
        .get("example")
        .map(|example| ("", example))
        .into_iter()
        .chain(named)
        .collect()
}

fn check_response(document: &Document, at: &str, status: &str, response: &Value) {
    check_contents(document, at);
    let headers = response["headers"].as_object().unwrap();
    for (name, header) in headers {
        for word in ["description", "example", "schema"] {
            assert!(header.get(word).is_some(), "{at}: {name} has no {word}");
        }
    }
    let mut needed = BTreeSet::from(["X-Request-Id", "Cache-Control"]);
    needed.extend((status == "401").then_some("WWW-Authenticate"));
    needed.extend(["429", "503"].contains(&status).then_some("Retry-After"));
    needed.extend((status == "201").then_some("Location"));
    assert!(
        needed.iter().all(|name| headers.contains_key(*name)),
        "{at}: {headers:?}"
    );
    if status.starts_with('2') {
        return;
    }
    let contents = response["content"].as_object().unwrap();
    assert_eq!(
        contents.keys().collect::<Vec<_>>(),
        ["application/problem+json"],
        "{at}"
    );
    for (code, problem) in examples(&contents["application/problem+json"]) {
        assert_eq!(
            (&problem["code"], problem["status"].to_string().as_str()),
            (&json!(code), status),
            "{at}"
        );
        assert!(
            response["description"]
                .as_str()
                .unwrap()
                .contains(&format!("`{code}`: ")),
            "{at}"
        );
        assert_eq!(
            problem.get("retry_after").is_some(),
            ["429", "503"].contains(&status),
            "{at} {code}"
        );
    }
}

/// The pattern of each term takes what the domain takes, and nothing else.
#[tokio::test]
async fn the_patterns_are_the_grammar() {
    let document = Document::asyncapi().await;
    type Parser = fn(&str) -> bool;
    let textual = |text: &str| ContentType::parse(text).is_ok_and(|parsed| parsed.is_textual());
    let terms: [(&str, Parser, &str); 7] = [
        ("UserId", |text| UserId::parse(text).is_ok(), "aZ09._@+:-~, /\n"),
        (
            "ConversationId",
            |text| ConversationId::parse(text).is_ok(),
            "abAB,,. ",
        ),
        (
            "CommandKey",
            |text| CommandKey::parse(text).is_ok(),
            "aZ!~ \u{7f}ä\n",
        ),
        ("After", |text| After::parse(text).is_ok(), "a0:1+-A\n"),
        (
            "ContentType",
            |text| ContentType::parse(text).is_ok(),
            "a/+;= \n!",
        ),
        ("TextualType", textual, "text/json+xml; a"),
        (
            "Base64",
            |text| chat_api::wire::Draft::base64(text).is_ok_and(|bytes| !bytes.is_empty()),
            "AQ==g/+4=",
        ),
    ];
    let mut rng = StdRng::seed_from_u64(7);
    for (name, parse, letters) in terms {
        let validator = document.validator(&pointer(&["components", "schemas", name]));
        let letters: Vec<char> = letters.chars().collect();
        let mut samples: Vec<String> = (0..sized(2_000, 20_000))
            .map(|_| {
                (0..rng.random_range(0..9))
                    .map(|_| letters[rng.random_range(0..letters.len())])
                    .collect()
            })
            .collect();
        let known = [
            "",
            "0",
            "a:0",
            "a:01",
            "a:7",
            "text/plain",
            "TEXT/x",
            "application/json",
            "application/JSON ; a=b",
            "a/b+json",
            "image/svg+xml",
            "image/png",
            "text/",
            "alice",
            "a,b",
            "b,a",
            "QQ==",
            "QR==",
            "QUI=",
            "QUJD",
            "a\n",
            "text/plain\n",
        ];
        samples.extend(known.map(String::from));
        samples.extend([32, 33, 64, 65, 127, 128].map(|length| "x".repeat(length)));
        samples.extend([127, 128].map(|length| format!("text/{}", "x".repeat(length - 5))));
        let mut accepted = 0;
        for (sample, valid) in samples.iter().zip(validator.are_valid(&samples)) {
            let parsed = parse(sample);
            // Which of two ids is the smaller no pattern says.
            if name == "ConversationId" && valid && !parsed && sample.contains(',') {
                continue;
            }
            assert_eq!(parsed, valid, "{name} {sample:?}");
            accepted += usize::from(parsed);
        }
        assert!(accepted >= 5, "{name}: {accepted}");
    }
}

#[tokio::test]
async fn the_asyncapi_document_is_one_by_the_official_schema() {
    let path = plain::folder().join("node_modules/@asyncapi/specs/schemas/3.0.0.json");
    let official = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run tests/prepare", path.display()));
    let official: Value = serde_json::from_str(&official).unwrap();
    let validator = Validator::new(&official);
    let mut document = Document::asyncapi().await.value;
    let errors = validator.wrong(&document);
    assert!(errors.is_empty(), "{errors:#?}");
    // It says no to one that is none.
    document["channels"]["socket"]["messages"] = json!([]);
    assert_ne!(validator.wrong(&document), [""; 0]);
}

/// Each message of the AsyncAPI document has examples, and they are what it says they are.
#[tokio::test]
async fn the_examples_of_messages_are_what_their_schemas_say() {
    let document = Document::asyncapi().await;
    for (channel, described) in document.at("/channels").as_object().unwrap() {
        for (key, message) in described["messages"].as_object().unwrap() {
            let at = pointer(&["channels", channel, "messages", key]);
            let examples = message["examples"].as_array().unwrap();
            assert!(!examples.is_empty(), "{at}");
            for example in examples {
                document.check(&format!("{at}/payload"), &example["payload"]);
            }
        }
    }
}

/// Every request of the OpenAPI document that is an example, as it stands there, to a server whose next message is the one
/// that the examples speak of. The answer has the status and the shape of the answer's example.
#[tokio::test]
async fn each_example_does_what_it_says() {
    let document = Document::openapi().await;
    let mut asked = 0;
    for (path, method, operation) in operations(&document) {
        let body = operation
            .get("requestBody")
            .map(|body| &body["content"]["application/json"]);
        let bodies = body.map_or(vec![("", &Value::Null)], examples);
        let (status, response) = success(operation);
        for (media_type, content) in response["content"].as_object().unwrap() {
            for (name, body) in &bodies {
                let what = format!("{method} {path} {name} for {media_type}");
                let server = ServerOfExamples::start(operation).await;
                let request = server
                    .request(path, method, operation, body)
                    .header(ACCEPT, media_type);
                let example = content["example"].clone();
                if media_type == "text/event-stream" {
                    let frames = frames_of(request, example.as_str().unwrap().matches("data:").count()).await;
                    assert_eq!(
                        shapes(&frames),
                        shapes(example.as_str().unwrap()),
                        "{what}: {frames}"
                    );
                } else {
                    let answer = reply(request).await;
                    assert_eq!(answer.status, status, "{what}: {answer:?}");
                    assert!(
                        answer.content_type().starts_with(media_type),
                        "{what}: {answer:?}"
                    );
                    let at = pointer(&[
                        "paths",
                        path,
                        method,
                        "responses",
                        &status.to_string(),
                        "content",
                        media_type,
                        "schema",
                    ]);
                    document.check(&at, &answer.body);
                    assert_eq!(shape(&answer.body), shape(&example), "{what}: {}", answer.body);
                    check_headers(&what, response, &answer);
                }
                asked += 1;
            }
        }
    }
    assert!(asked >= 11, "{asked}");
}

fn success(operation: &Value) -> (u16, &Value) {
    let responses = operation["responses"].as_object().unwrap();
    let (status, response) = responses
        .iter()
        .find(|(status, _)| status.starts_with('2'))
        .unwrap();
    (status.parse().unwrap(), response)
}

/// Where `alice` has sent `hi` to `bob`, and that is message 4182.
struct ServerOfExamples {
    _database: Database,
    _server: Server,
    client: Client,
}

impl ServerOfExamples {
    async fn start(operation: &Value) -> ServerOfExamples {
        let database = Database::fresh(Kind::Sqlite).await;
        if operation["tags"][0] == "development" {
            let server = Server::start_for_development(&database, &[]).await;
            let client = Client::new(&server.url(), "");
            return ServerOfExamples {
                _database: database,
                _server: server,
                client,
            };
        }
        let migrated = run(&database, &["migrate", "up"], &[]).await;
        assert_eq!(migrated.code, 0, "{migrated:?}");
        database
            .execute("UPDATE log_head SET epoch = 'k7f3q2', position = 4181, floor = 4181")
            .await;
        let server = Server::start(&database, &[]).await;
        if operation["operationId"] != "send_message" {
            let sent = server
                .client("alice")
                .send("bob", "hi", Some("c1-88"))
                .await
                .unwrap();
            assert_eq!(sent["_id"], 4182);
        }
        // The examples of lists show a message that is received.
        if ["get_message", "list_messages", "list_conversations"]
            .contains(&operation["operationId"].as_str().unwrap())
        {
            server.client("bob").receipt("received", 4182).await.unwrap();
        }
        let claims = json!({"sub": "alice", "exp": now() + 600, "scope": "chat.send_as chat.read_all"});
        let client = Client::new(&server.url(), &token(&claims));
        ServerOfExamples {
            _database: database,
            _server: server,
            client,
        }
    }

    fn request(&self, path: &str, method: &str, operation: &Value, body: &Value) -> reqwest::RequestBuilder {
        let mut path = path.to_owned();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().map_or(value.to_string(), String::from);
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "path") {
            let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
            path = path.replace(&name, &text(&parameter["example"]));
        }
        let mut request = self.client.request(method.to_uppercase().parse().unwrap(), &path);
        for parameter in parameters
            .iter()
            .filter(|parameter| parameter.get("example").is_some())
        {
            let (name, value) = (parameter["name"].as_str().unwrap(), text(&parameter["example"]));
            match parameter["in"].as_str().unwrap() {
                "query" => request = request.query(&[(name, value)]),
                "header" => request = request.header(name, value),
                _ => {}
            }
        }
        if body.is_null() {
            request
        } else {
            request.json(body)
        }
    }
}

/// An answer's text until so many frames have come.
async fn frames_of(request: reqwest::RequestBuilder, count: usize) -> String {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut text = String::new();
    let mut chunks = answer.bytes_stream();
    while text.matches("data:").count() < count || !text.ends_with("\n\n") {
        let chunk = tokio::time::timeout(LIMIT, chunks.next())
            .await
            .expect("a frame comes");
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
    }
    text
}

/// The shape of a stream: its lines, with the shapes of what they carry.
fn shapes(stream: &str) -> Vec<String> {
    let lines = stream.lines().map(|line| match line.split_once(": ") {
        Some(("data", data)) => shape(&serde_json::from_str(data).unwrap()),
        Some(("id", _)) => "id".to_owned(),
        _ => line.to_owned(),
    });
    lines.collect()
}

/// The names and types of a value, all the way down; of a list those of its first item. What may be null has no type, and `data`
/// and `text` are one: which of them is there follows from the content.
fn shape(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Map<_, _> = fields.clone();
            let of = |(name, value): (&String, &Value)| match name.as_str() {
                "next" | "prev" if !value.as_str().is_some_and(|text| text.contains(':')) => {
                    format!("{name}?")
                }
                "received_at" => format!("{name}?"),
                "data" => format!("text: {}", shape(value)),
                _ => format!("{name}: {}", shape(value)),
            };
            let mut fields: Vec<_> = fields.iter().map(of).collect();
            fields.sort();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::String(_) => "string".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Null => "null".into(),
    }
}

/// What is always there is there; what depends on the answer is tested with the doors.
fn check_headers(what: &str, response: &Value, answer: &Reply) {
    for name in response["headers"].as_object().unwrap().keys() {
        let depends = ["Link", "Idempotency-Replayed"].contains(&name.as_str());
        assert!(depends || !answer.header(name).is_empty(), "{what}: no {name}");
    }
}
