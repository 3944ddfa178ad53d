//! The documents of the contract, whole: made from the handlers themselves.
//!
//! `openapi/` in the repository holds what is printed here, and the server shows those files. Tests hold files and
//! handlers together.

use utoipa::openapi::OpenApi as Document;

use crate::{openapi, router};

/// The OpenAPI document, with the operations that are there only in development.
pub fn openapi() -> Document {
    let table = router::table().merge(router::development_table());
    openapi::complete(table.into_openapi())
}

/// As the repository holds it.
pub fn openapi_text() -> String {
    let mut text = openapi()
        .to_pretty_json()
        .expect("a document of strings and numbers serialises");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
