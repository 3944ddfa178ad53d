//! JSON that comes in, with a pointer to what is wrong with it.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::problem::{Code, Problem};

/// An object of JSON, whatever it came in.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let pointer = pointer(error.path());
        let error = error.into_inner();
        match error.classify() {
            Category::Data => Problem::new(Code::BodyInvalid).at(pointer, error),
            // Of a name that is written as a number, serde_json says that it is no JSON.
            _ if serde_json::from_slice::<serde_json::Value>(body).is_ok() => {
                Problem::new(Code::BodyInvalid).at(pointer, error)
            }
            Category::Syntax | Category::Eof | Category::Io => Problem::new(Code::JsonInvalid).detail(error),
        }
    })?;
    json.end()
        .map_err(|error| Problem::new(Code::JsonInvalid).detail(error))?;
    // Serde also fills a struct from an array, in the order of its fields: nothing that we promise.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(Code::BodyInvalid).at("", "an object is expected"));
    }
    Ok(value)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segments = path.iter().map(|segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => String::new(),
    });
    segments.collect()
}
